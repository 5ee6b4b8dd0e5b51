"""URLs of trackers, and where a request may go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor import limits
from btor.errors import UsageError
from btor.wire.url import Url, carries_announce_keys, is_host_name, refusal


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("http://t.example/announce", ("http", "t.example", 80, "/announce", None)),
        ("https://T.Example/announce?a=b&c=/d#frag", ("https", "t.example", 443, "/announce?a=b&c=/d", None)),
        ("HTTP://t.example", ("http", "t.example", 80, "/", None)),
        ("http://t.example?x=1", ("http", "t.example", 80, "/?x=1", None)),
        ("http://t.example:/a", ("http", "t.example", 80, "/a", None)),
        ("http://t.example:8080/a", ("http", "t.example", 8080, "/a", None)),
        ("http://127.0.0.1:6969/announce", ("http", "127.0.0.1", 6969, "/announce", None)),
        ("http://[2001:DB8::1]:80/a", ("http", "2001:db8::1", 80, "/a", None)),
        ("http://[::1]/a", ("http", "::1", 80, "/a", None)),
        ("http://[::ffff:1.2.3.4]/a", ("http", "1.2.3.4", 80, "/a", None)),
        ("http://me:p%40ss@t.example/a", ("http", "t.example", 80, "/a", ("me", "p@ss"))),
        ("http://me@t.example/a", ("http", "t.example", 80, "/a", ("me", ""))),
        ("udp://t.example:6969", ("udp", "t.example", 6969, "", None)),
        ("udp://t.example:6969/announce?x=1", ("udp", "t.example", 6969, "/announce?x=1", None)),
        ("udp://[::1]:6969", ("udp", "::1", 6969, "", None)),
    ],
)
def test_parse(text: str, parts: tuple[str, str, int, str, tuple[str, str] | None]) -> None:
    url = Url.parse(text)
    assert (url.scheme, url.host, url.port, url.target, url.userinfo) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t.example/announce",
        "ftp://t.example/a",
        "file:///etc/passwd",
        "ws://t.example/",
        "http://",
        "http:///announce",
        "http://:80/a",
        "http://t.example:0/a",
        "http://t.example:65536/a",
        "http://t.example:x/a",
        "http://[::1/a",
        "http://[::1]x/a",
        "http://[fe80::1%25eth0]/a",
        "http://::1/a",
        "http://t example/a",
        "http://t.example/a b",
        "http://t.example/\r\nHost: x",
        "http://bücher.example/a",
        "http://t..example/a",
        "http://-t.example/a",
        "http://127.1/a",
        "http://2130706433/a",
        "http://0x7f000001/a",
        "http://0x7f.1/a",
        "http://1.2.3.4.5/a",
        "udp://t.example/a",
        "udp://t.example",
    ],
)
def test_what_is_no_tracker_url(text: str) -> None:
    with pytest.raises(UsageError):
        Url.parse(text)


def test_the_longest_url() -> None:
    stem = "http://t.example/"
    assert Url.parse(stem + "x" * (limits.URL_LENGTH - len(stem))).path.endswith("x")
    with pytest.raises(UsageError, match="too long"):
        Url.parse(stem + "x" * (limits.URL_LENGTH - len(stem) + 1))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@T.example:80/a?b", "http://t.example/a?b"),
        ("http://t.example:81", "http://t.example:81/"),
        ("https://[::1]:443/a", "https://[::1]/a"),
        ("udp://[::1]:6969/a", "udp://[::1]:6969/a"),
    ],
)
def test_shown_without_credentials(text: str, shown: str) -> None:
    assert str(Url.parse(text)) == shown


@given(st.text(max_size=30) | st.from_regex(r"(http|udp)://[a-z0-9:@./?#\[\]%-]*", fullmatch=True))
def test_what_parses_stays_what_it_is(text: str) -> None:
    try:
        url = Url.parse(text)
    except UsageError:
        return
    assert Url.parse(str(url)) == Url(url.scheme, url.host, url.port, url.target)
    assert is_host_name(url.host) or url.host.replace(".", "").replace(":", "").isalnum()


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("localhost", True),
        ("t.example.", True),
        ("my_host.example", True),
        ("xn--bcher-kva.example", True),
        ("1.2.3.x4", True),
        ("a" * 63 + ".example", True),
        ("a" * 64 + ".example", False),
        (".".join(["a" * 49] * 5) + ".abc", True),  # 253 characters
        (".".join(["a" * 49] * 5) + ".abcd", False),
        ("", False),
        (".", False),
        ("a..b", False),
        ("a-.b", False),
        ("1.2.3.4", False),
        ("a.0X7F", False),
        ("a/b", False),
        ("a\n", False),
    ],
)
def test_host_names(name: str, is_one: bool) -> None:
    assert is_host_name(name) is is_one


# --- redirects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "leads_to", "keeps_credentials"),
    [
        ("/b?x", "http://t.example/b?x", True),
        ("b", "http://t.example/dir/b", True),
        ("?x=1", "http://t.example/dir/announce?x=1", True),
        ("http://t.example/b", "http://t.example/b", True),
        ("http://t.example:80/b", "http://t.example/b", True),
        ("//other.example/b", "http://other.example/b", False),
        ("http://t.example:81/b", "http://t.example:81/b", False),
        ("https://t.example/b", "https://t.example/b", False),
    ],
)
def test_join(location: str, leads_to: str, keeps_credentials: bool) -> None:
    url = Url.parse("http://me:secret@t.example/dir/announce?old").join(location)
    assert str(url) == leads_to
    assert url.userinfo == (("me", "secret") if keeps_credentials else None)


def test_a_redirect_may_bring_credentials_of_its_own() -> None:
    url = Url.parse("http://me:secret@t.example/a")
    assert url.join("http://you:word@t.example/").userinfo == ("you", "word")
    assert url.join("http://you:word@other.example/").userinfo == ("you", "word")


def test_a_redirect_within_an_ipv6_host() -> None:
    assert str(Url.parse("http://[::1]:8000/a").join("/b")) == "http://[::1]:8000/b"


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "gopher://x/", "http://[::1", "/a b", "x" * (limits.URL_LENGTH + 1), "//bücher/"],
)
def test_a_redirect_to_nowhere(location: str) -> None:
    with pytest.raises(UsageError):
        Url.parse("http://t.example/a").join(location)


def test_another_target() -> None:
    url = Url.parse("http://me:secret@t.example:81/a")
    assert url.with_target("/b?c") == Url("http", "t.example", 81, "/b?c", ("me", "secret"))


# --- where a request may go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "carries"),
    [
        ("", False),
        ("?passkey=abc", False),
        ("?passkey=abc&uploadedx=1", False),
        ("?info_hash=abc", True),
        ("?a=1&PORT=22", True),
        ("?a=1;event=started", True),
        ("?%65vent=started", True),
        ("?left", True),
    ],
)
def test_N3_pre_baked_announces(query: str, carries: bool) -> None:
    assert carries_announce_keys(Url.parse(f"http://t.example/announce{query}")) is carries


TRACKER = Url.parse("http://t.example/announce?passkey=1")
ELSEWHERE = Url.parse("http://t.example/admin?x=/announce")
SCRAPE = Url.parse("http://t.example/scrape")
UDP = Url.parse("udp://t.example:1")


@pytest.mark.parametrize(
    ("url", "ip", "may"),
    [
        (TRACKER, "8.8.8.8", True),
        (ELSEWHERE, "8.8.8.8", True),
        (TRACKER, "127.0.0.1", True),
        (TRACKER, "::1", True),
        (TRACKER, "192.168.1.1", True),
        (TRACKER, "fd12::1", True),
        (SCRAPE, "127.0.0.1", True),
        (ELSEWHERE, "127.0.0.1", False),
        (ELSEWHERE, "::1", False),
        (ELSEWHERE, "10.0.0.1", False),
        (UDP, "127.0.0.1", True),
        *((url, ip, False) for url in (TRACKER, UDP) for ip in ("169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1")),
        *((url, ip, False) for url in (TRACKER, UDP) for ip in ("100.100.100.200", "168.63.129.16", "fd00:ec2::254")),
        (TRACKER, "192.0.0.192", False),
    ],
)
def test_N3_where_a_tracker_may_be(url: Url, ip: str, may: bool) -> None:
    assert (refusal(url, ip, tracker=True, reached_global=False) is None) is may


@pytest.mark.parametrize(
    ("ip", "may"), [("8.8.8.8", True), ("127.0.0.1", True), ("10.0.0.1", True), ("169.254.169.254", False)]
)
def test_where_a_url_of_the_user_may_lead(ip: str, may: bool) -> None:
    assert (refusal(ELSEWHERE, ip, tracker=False, reached_global=False) is None) is may


@pytest.mark.parametrize("tracker", [True, False])
@pytest.mark.parametrize(("ip", "may"), [("8.8.8.8", True), ("127.0.0.1", False), ("10.0.0.1", False), ("::1", False)])
def test_a_redirect_from_the_internet_stays_there(ip: str, may: bool, tracker: bool) -> None:
    assert (refusal(TRACKER, ip, tracker=tracker, reached_global=True) is None) is may
