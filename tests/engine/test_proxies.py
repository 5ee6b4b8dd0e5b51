"""Proxies of the environment."""

from __future__ import annotations

import pytest

from btor.engine.proxies import proxy_for
from btor.errors import UsageError
from btor.wire.url import Url

P = "http://proxy.example:3128"


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("http://t.example/", {}, None),
        ("http://t.example/", {"http_proxy": P}, P),
        ("http://t.example/", {"HTTP_PROXY": P}, P),
        ("http://t.example/", {"http_proxy": P, "HTTP_PROXY": "http://other:1"}, P),
        ("http://t.example/", {"http_proxy": ""}, None),
        ("https://t.example/", {"http_proxy": P}, None),
        ("https://t.example/", {"HTTPS_PROXY": P}, P),
        ("https://t.example/", {"ALL_PROXY": P}, P),
        ("http://t.example/", {"all_proxy": "http://other:1", "http_proxy": P}, P),
        ("http://t.example/", {"http_proxy": "proxy.example:3128"}, P),
        ("http://t.example/", {"http_proxy": "https://proxy.example"}, "https://proxy.example"),
        ("http://localhost:6969/", {"http_proxy": P}, None),
        ("http://x.localhost./", {"http_proxy": P}, None),
        ("http://127.4.5.6/", {"http_proxy": P}, None),
        ("http://[::1]/", {"all_proxy": P}, None),
        ("http://10.0.0.1/", {"http_proxy": P}, P),
    ],
)
def test_which_proxy(url: str, environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(Url.parse(url), environ) == (None if proxy is None else Url.parse(proxy))


@pytest.mark.parametrize(
    ("url", "no_proxy", "direct"),
    [
        ("http://t.example/", "*", True),
        ("http://t.example/", "t.example", True),
        ("http://t.example/", "T.Example", True),
        ("http://t.example/", "example", True),
        ("http://t.example/", ".example", True),
        ("http://t.example/", "*.example", True),
        ("http://t.example/", "a.b, t.example", True),
        ("http://t.example/", "a.b t.example", True),
        ("http://t.example/", "xample", False),
        ("http://t.example/", "x.t.example", False),
        ("http://t.example/", "t.example:80", True),
        ("http://t.example/", "t.example:81", False),
        ("http://10.1.2.3/", "10.0.0.0/8", True),
        ("http://10.1.2.3/", "10.1.2.3", True),
        ("http://10.1.2.3/", "11.0.0.0/8", False),
        ("http://10.1.2.3/", "t.example", False),
        ("http://[2001:db8::1]/", "2001:db8::/32", True),
        ("http://[2001:db8::1]/", "[2001:db8::1]", True),
        ("http://[2001:db8::1]/", "10.0.0.0/8", False),
        ("http://t.example/", ", ,", False),
    ],
)
@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_who_is_exempt(url: str, no_proxy: str, direct: bool, name: str) -> None:
    assert (proxy_for(Url.parse(url), {"http_proxy": P, name: no_proxy}) is None) is direct


@pytest.mark.parametrize("proxy", ["socks5://p:1080", "socks5h://p:1080", "udp://p:1080", "http://", "http://p:x"])
def test_a_proxy_that_cannot_be_used(proxy: str) -> None:
    with pytest.raises(UsageError, match="proxy of the environment"):
        proxy_for(Url.parse("http://t.example/"), {"http_proxy": proxy})
    assert proxy_for(Url.parse("http://localhost/"), {"http_proxy": proxy}) is None
