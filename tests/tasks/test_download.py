"""Fetching what a stranger names: from a real server on this machine, over a real socket, within the rules."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import DataError, HerdlightError, MissingExtra, ParamsError
from tasks.download import DownloadRules, download, is_public, is_url, name_of

CONTENT = bytes(range(256)) * 400
RULES = DownloadRules(private_hosts=frozenset({"127.0.0.1"}), max_bytes=len(CONTENT), timeout_s=20)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        if path in ("/ok.mp4", "/large", "/short"):
            self.send_header("Content-Length", str(len(CONTENT) + (path != "/ok.mp4")))
        self.end_headers()
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        if path == "/drip":
            while True:
                try:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.05)
        if path != "/empty":
            self.wfile.write(CONTENT + (b"y" if path in ("/large", "/endless") else b""))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    running.paths = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture
def base(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_what_is_there_comes(base: str, tmp_path: Path) -> None:
    for path in ("/ok.mp4", "/nolength", f"/to/{base}/to/{base}/ok.mp4?a=1"):
        download(base + path, tmp_path / "video", RULES)
        assert (tmp_path / "video").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/gone", "answers 404"),
        ("/large", "larger than 102400 bytes"),
        ("/endless", "larger than 102400 bytes"),
        ("/empty", "nothing at this address"),
        ("/to/file:///etc/passwd", "is not allowed"),
        ("/to/ftp://127.0.0.1/a", "'ftp' is not allowed"),
        ("/to/gopher://x/", "is not allowed"),
        ("/to/http://localhost/a", "HERDLIGHT_PRIVATE_HOSTS"),
        ("/to/http://169.254.169.254/latest/meta-data", "HERDLIGHT_PRIVATE_HOSTS"),
        ("/to/http://a:b@127.0.0.1/a", "name or password"),
    ],
)
def test_what_is_not_taken(base: str, tmp_path: Path, path: str, words: str) -> None:
    with pytest.raises(DataError) as refused:
        download(base + path, tmp_path / "video", RULES)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_connection_that_breaks_off_is_no_video(base: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"broke off|cannot be fetched"):
        download(f"{base}/short", tmp_path / "video", replace(RULES, max_bytes=1 << 20))


def test_a_circle_of_redirects_ends(server: ThreadingHTTPServer, base: str, tmp_path: Path) -> None:
    url = f"{base}/ok.mp4"
    for _ in range(7):
        url = f"{base}/to/{url}"
    with pytest.raises(DataError, match="302") as refused:
        download(url, tmp_path / "video", RULES)
    assert "\n" not in str(refused.value)


def test_a_server_that_drips_is_cut_off(base: str, tmp_path: Path) -> None:
    started_s = time.monotonic()
    with pytest.raises(DataError, match=r"not there after 0\.5 s"):
        download(f"{base}/drip", tmp_path / "video", replace(RULES, timeout_s=0.5))
    assert time.monotonic() - started_s < 10


def test_a_server_that_says_nothing_is_cut_off(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.mp4"
        with pytest.raises(DataError, match="not there after"):
            download(url, tmp_path / "video", replace(RULES, timeout_s=0.5))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "10.1.2.3", "[::ffff:127.0.0.1]"]
)
def test_by_default_nothing_of_this_machine_is_asked(server: ThreadingHTTPServer, tmp_path: Path, host: str) -> None:
    before = len(server.paths)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"HERDLIGHT_PRIVATE_HOSTS|cannot be fetched"):
        download(f"http://{host}:{server.server_address[1]}/ok.mp4", tmp_path / "video", DownloadRules(timeout_s=5))
    assert len(server.paths) == before  # type: ignore[attr-defined]


def test_a_name_that_changes_its_address_gains_nothing(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was looked up first, the address that is connected to is the one that is judged."""
    port = server.server_address[1]
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda *_args, **_more: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))],
    )
    with pytest.raises(DataError, match=r"rebinding\.example is an address of this machine"):
        download(f"http://rebinding.example:{port}/ok.mp4", tmp_path / "video", RULES)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *[("8.8.8.8", True), ("2001:4860:4860::8888", True), ("192.168.1.1", False), ("172.16.0.1", False)],
        *[
            ("100.64.0.1", False),
            ("169.254.169.254", False),
            ("224.0.0.1", False),
            ("::1", False),
            ("fe80::1%eth0", False),
        ],
        *[("fd00::1", False), ("::ffff:10.0.0.1", False), ("::ffff:8.8.8.8", True), ("64:ff9b::a00:1", False)],
        *[("2002:7f00:1::", False), ("0.0.0.0", False), ("255.255.255.255", False)],
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@given(st.ip_addresses())
def test_every_address_is_judged(address: object) -> None:
    assert is_public(str(address)) in (True, False)


def test_files_only_where_they_are_allowed(tmp_path: Path) -> None:
    source = tmp_path / "a b.mp4"
    source.write_bytes(CONTENT)
    with pytest.raises(DataError, match="scheme 'file' is not allowed here; allowed: http, https"):
        download(source.as_uri(), tmp_path / "video", RULES)
    files = replace(RULES, schemes=frozenset({"file"}))
    download(source.as_uri(), tmp_path / "video", files)
    assert (tmp_path / "video").read_bytes() == CONTENT
    for bad in ("file:///nowhere.mp4", "file://other-host/a.mp4", tmp_path.as_uri()):
        with pytest.raises(DataError, match="no such file"):
            download(bad, tmp_path / "video", files)


def test_other_schemes_go_through_fsspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fsspec.filesystem("memory").open("memory://bucket/a.mp4", "wb") as target:
        target.write(CONTENT)
    rules = replace(RULES, schemes=frozenset({"memory", "s3"}))
    download("memory://bucket/a.mp4", tmp_path / "video", rules)
    assert (tmp_path / "video").read_bytes() == CONTENT
    with pytest.raises(DataError, match="larger than 10 bytes"):
        download("memory://bucket/a.mp4", tmp_path / "video", replace(rules, max_bytes=10))
    (tmp_path / "secret").write_bytes(b"secret")
    for bad in ("memory://bucket/none.mp4", f"memory://bucket/a.mp4::file://{tmp_path / 'secret'}"):
        with pytest.raises(DataError, match="cannot be fetched"):
            download(bad, tmp_path / "video2", rules)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtra, match=r"herdlight\[s3\]"):
        download("s3://bucket/a.mp4", tmp_path / "video", rules)


@given(st.text(max_size=30), st.sampled_from(["http://", "https://[", "http://\x00", "http:// ", "x://", ""]))
def test_no_address_breaks_it(text: str, prefix: str) -> None:
    with pytest.raises(HerdlightError) as refused:
        download(prefix + text, Path("nowhere"), replace(DownloadRules(), schemes=frozenset()))
    assert "\n" not in str(refused.value)


def test_addresses_and_paths() -> None:
    assert is_url("https://a/b.mp4")
    assert is_url("s3+x://a")
    assert not is_url("C:/a.mp4")
    assert not is_url("/a/b://c.mp4")
    assert name_of("https://a/b/c%20d.mp4?x=1#y") == "c d.mp4"


def test_rules_of_the_environment() -> None:
    assert DownloadRules.from_environment({}) == DownloadRules()
    given = {
        "HERDLIGHT_URL_SCHEMES": "HTTPS, s3",
        "HERDLIGHT_PRIVATE_HOSTS": "minio.local",
        "HERDLIGHT_MAX_VIDEO_BYTES": "5e6",
    }
    rules = DownloadRules.from_environment(given)
    assert (rules.schemes, rules.private_hosts) == ({"https", "s3"}, {"minio.local"})
    assert rules.max_bytes == 5_000_000
    assert DownloadRules.from_environment({"HERDLIGHT_URL_SCHEMES": ""}).schemes == frozenset()
    for bad in ("0", "-1", "much", "nan", "inf"):
        with pytest.raises(ParamsError, match="HERDLIGHT_URL_TIMEOUT_S"):
            DownloadRules.from_environment({"HERDLIGHT_URL_TIMEOUT_S": bad})
