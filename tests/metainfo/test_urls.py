"""Which foreign URLs and addresses are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btor.limits import URL_LENGTH
from btor.metainfo.urls import checked_host_port, host_port, tracker_url, web_seed_url


@pytest.mark.parametrize(
    "url",
    [
        "http://t.example/announce",
        "https://t.example:443/a?passkey=x&y=%20",
        "udp://t.example:6969",
        "udp://1",
        "HTTP://2",
        "http://user:pass@t.example/announce",
        "http://[::1]:80/a",
        "http://127.0.0.1:1/a",
        "http://t.example.:65535/",
        "http://a_b-c.example/",
        "http://" + "a" * 63 + ".b/",
    ],
)
def test_trackers_kept_as_they_are(url: str) -> None:
    assert tracker_url(url.encode()) == url
    assert tracker_url(b" \t\r\n" + url.encode() + b"\n ") == url


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"t.example:80/announce",
        b"//t.example/",
        b"file:///etc/passwd",
        b"javascript:alert(1)",
        b"wss://t.example/",
        b"http:",
        b"http://",
        b"http:///announce",
        b"http://:80/",
        b"http://[::1/announce",
        b"http://[::1%25lo]/",
        b"http://[1.2.3.4]/",
        b"http://[zz::]/",
        b"http://a:b:c/",
        b"udp://t.example:99999/announce",
        b"udp://t.example:0/",
        b"udp://t.example:x/",
        b"udp://t.example:-1/",
        b"http://t.example/a b",
        b"http://t.example/\r\nHost: x",
        b"http://t.example/\x7f",
        b"http://t.example/\xff",
        "http://bücher.example/".encode(),
        b"http://a..b/",
        b"http://" + b"a" * 64 + b".b/",
        b"http://" + b"a." * 126 + b"ab/",
        b"http://<x>/",
    ],
)
def test_trackers_left_out(raw: bytes) -> None:
    assert tracker_url(raw) is None


def test_url_length() -> None:
    url = b"http://t.example/".ljust(URL_LENGTH, b"a")
    assert tracker_url(url) == url.decode()
    assert tracker_url(url + b"a") is None
    assert web_seed_url(url, folder=False) == url.decode()
    assert web_seed_url(url + b"a", folder=False) is None
    assert web_seed_url(url[:-1] + b" ", folder=False) == url.decode()[:-1]
    assert web_seed_url(url[:-1] + b"\xff", folder=False) is None  # three characters once it is escaped


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b"http://a.example/f", "http://a.example/f"),
        (b" http://a.example/f\n", "http://a.example/f"),
        (b"http://a.example/a b/\xc3\xa9?x=[1]&y=%41", "http://a.example/a%20b/%C3%A9?x=[1]&y=%41"),
        (b'http://a.example/"<>\\^`{|}', "http://a.example/%22%3C%3E%5C%5E%60%7B%7C%7D"),
        (b"http://169.254.1.1.example/", "http://169.254.1.1.example/"),
        (b"http://[::1]/", "http://[::1]/"),
        (b"", None),
        (b"udp://a.example/", None),
        (b"ftp://a.example/", None),
        (b"http://a.example/\r\nX: y", None),
        (b"http://a.example/\x00", None),
        (b"http://a b/", None),
        (b"http://169.254.169.254/latest", None),
        (b"http://[::ffff:169.254.169.254]/", None),
        (b"http://a.example:0/", None),
    ],
)
def test_web_seeds(raw: bytes, kept: str | None) -> None:
    assert web_seed_url(raw, folder=False) == kept


def test_web_seeds_of_a_folder_end_in_a_slash() -> None:
    assert web_seed_url(b"http://a.example/f", folder=True) == "http://a.example/f/"
    assert web_seed_url(b"http://a.example/f/", folder=True) == "http://a.example/f/"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:43", ("127.0.0.1", 43)),
        ("[::1]:45", ("::1", 45)),
        ("[2001:DB8:0::1]:65535", ("2001:db8::1", 65535)),
        ("host.example:1", ("host.example", 1)),
        ("", None),
        ("host", None),
        ("host:", None),
        (":1", None),
        ("host:0", None),
        ("host:65536", None),
        ("host:999999", None),
        ("host:+1", None),
        ("::1:45", None),
        ("[1.2.3.4]:5", None),
        ("[host]:5", None),
        ("<invalid>:100", None),
        ("[::1%25lo]:5", None),
        ("1.2.3.4:5\n", None),
        ("1.2.3.4:٥", None),
    ],
)
def test_host_port(text: str, expected: tuple[str, int] | None) -> None:
    assert host_port(text) == expected


def test_checked_host_port_takes_both_families() -> None:
    assert checked_host_port("::1", 5) == ("::1", 5)
    assert checked_host_port("1.2.3.4", 5) == ("1.2.3.4", 5)
    assert checked_host_port("1.2.3.4", -1) is None
    assert checked_host_port("", 5) is None
    assert checked_host_port("::x", 5) is None


@given(st.binary(max_size=40) | st.text("htps:/udp@[]1.%\\ #?", max_size=30).map(str.encode))
def test_nothing_escapes(raw: bytes) -> None:
    for prefix in (b"", b"http://", b"udp://["):
        for url in (tracker_url(prefix + raw), web_seed_url(prefix + raw, folder=True)):
            assert url is None or (url.isascii() and url.isprintable() and " " not in url)
    host_port(raw.decode("latin-1"))
