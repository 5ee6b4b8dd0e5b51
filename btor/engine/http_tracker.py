"""Asking HTTP trackers (BEP 3, 48). Imported when the first one is due: it brings the HTTP client along."""

from __future__ import annotations

from collections.abc import Sequence

from btor.engine.http import HttpClient, HttpReply
from btor.engine.http_backend import HttpError
from btor.errors import TrackerError
from btor.wire.address import Address
from btor.wire.tracker_http import (
    AnnounceReply,
    AnnounceRequest,
    ScrapeReply,
    announce_url,
    decode_announce,
    decode_scrape,
    scrape_url,
)
from btor.wire.url import Url


class HttpTrackers:
    """All HTTP trackers of a session. Errors are TrackerError, its reason not yet fit for display."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def is_proxied(self, url: Url) -> bool:
        """Whether a proxy looks the tracker's name up. TrackerError for a proxy that cannot be used."""
        try:
            return self._client.proxy_for(url) is not None
        except HttpError as error:
            raise TrackerError(str(url), error.reason) from error

    async def announce(
        self, addresses: Sequence[Address], request: AnnounceRequest, url: Url
    ) -> tuple[AnnounceReply, str | None]:
        """Announce to the tracker ``url`` at one of ``addresses``; the reply and the IP address it came from."""
        reply = await self._get(url, announce_url(url.target, request), addresses)
        return decode_announce(reply.body, str(url)), reply.ip

    async def scrape(self, addresses: Sequence[Address], info_hash: bytes, url: Url) -> ScrapeReply | None:
        """The figures of one torrent; None where the tracker offers no scrape."""
        target = scrape_url(url.target, [info_hash])
        if target is None:
            return None
        return decode_scrape((await self._get(url, target, addresses)).body, str(url))

    async def _get(self, url: Url, target: str, addresses: Sequence[Address]) -> HttpReply:
        try:
            return await self._client.get(url.with_target(target), addresses=addresses)
        except HttpError as error:
            raise TrackerError(str(url), error.reason, retry_after=error.retry_after) from error
