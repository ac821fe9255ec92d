"""A video from an address on the network, fetched by a server on behalf of whoever asks: within limits.

What a stranger names must not open doors that stand open to this machine alone (server-side request forgery, OWASP
Top 10 2021, A10). So: only schemes that are allowed; http(s) only to public addresses, checked on the address that is
connected to and again at every redirect, so that a name which changes its address gains nothing; no proxies, no
credentials in the address; a limit of bytes and of seconds for all of it. Other schemes (s3, gs, …) go through fsspec
with the rights that the server's own environment has. Knows addresses and bytes; knows nothing of videos.
"""

import contextlib
import http.client
import importlib
import ipaddress
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from models.errors import DataError, MissingExtra, ParamsError

_CHUNK_BYTES = 1 << 16
_MAX_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits
_EXTRAS = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class DownloadRules:
    """What may be fetched.

    schemes:       of addresses, lower case
    private_hosts: names or addresses, as they stand in a URL, that may be on the machine or its own network
    max_bytes:     of one video
    timeout_s:     for all of one download
    """

    schemes: frozenset[str] = frozenset({"http", "https"})
    private_hosts: frozenset[str] = frozenset()
    max_bytes: int = 2 << 30
    timeout_s: float = 300.0

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "DownloadRules":
        """Return the rules that the server's owner has set; see README. Raises ParamsError for what is no number."""
        default = DownloadRules()

        def words(name: str, otherwise: frozenset[str]) -> frozenset[str]:
            given = environment.get(name)
            return otherwise if given is None else frozenset(given.lower().replace(",", " ").split())

        def number(name: str, otherwise: float) -> float:
            try:
                value = float(environment.get(name, otherwise))
            except ValueError:
                value = 0.0
            if not 0 < value < float("inf"):
                raise ParamsError(f"{name} = {environment[name]!r}: must be a number above 0")
            return value

        return DownloadRules(
            words("HERDLIGHT_URL_SCHEMES", default.schemes),
            words("HERDLIGHT_PRIVATE_HOSTS", default.private_hosts),
            int(number("HERDLIGHT_MAX_VIDEO_BYTES", default.max_bytes)),
            number("HERDLIGHT_URL_TIMEOUT_S", default.timeout_s),
        )


def is_url(name: str) -> bool:
    """Return whether `name` is an address and no path: it has a scheme and `://`."""
    scheme, separator, _ = name.partition("://")
    return (
        bool(separator) and scheme[:1].isalpha() and scheme.replace("+", "").replace(".", "").replace("-", "").isalnum()
    )


def name_of(url: str) -> str:
    """Return the last part of the path in a URL, for people."""
    return unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]) or "video"


def download(url: str, target: Path, rules: DownloadRules) -> None:
    """Write what is at `url` to `target`.

    Raises DataError, one line, where the rules refuse it or it cannot be had; MissingExtra where a package for its
    scheme is not installed.
    """
    parts = _checked(url, rules)
    if parts.scheme == "file":
        source = Path(unquote(parts.path))
        if parts.netloc not in ("", "localhost") or not source.is_file():
            raise DataError(f"{url}: no such file on this machine")
        with source.open("rb") as opened:
            _copy(opened.read, target, rules, url)
    elif parts.scheme in ("http", "https"):
        _http(url, target, rules)
    else:
        _filesystem(parts.scheme, url, target, rules)


def _checked(url: str, rules: DownloadRules) -> Any:
    try:
        parts = urlsplit(url)
        has_credentials = "@" in parts.netloc
    except ValueError as error:
        raise DataError(f"{url!r}: not an address ({error})") from None
    if parts.scheme not in rules.schemes:
        allowed = ", ".join(sorted(rules.schemes)) or "none"
        raise DataError(f"scheme {parts.scheme!r} is not allowed here; allowed: {allowed} (HERDLIGHT_URL_SCHEMES)")
    if has_credentials:
        raise DataError("an address with a name or password in it is not taken")
    if any(character.isspace() or ord(character) < 32 for character in url):
        raise DataError(f"{url!r}: not an address (it has a space in it)")
    return parts


def _copy(
    read: Callable[[int], bytes], target: Path, rules: DownloadRules, url: str, deadline_s: float | None = None
) -> None:
    """Write what `read` gives to `target`, no more than the rules allow."""
    num_bytes = 0
    with target.open("wb") as written:
        while chunk := read(_CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > rules.max_bytes:
                raise _too_large(rules)
            if deadline_s is not None and time.monotonic() > deadline_s:
                raise _too_slow(rules)
            written.write(chunk)
    if not num_bytes:
        raise DataError(f"{name_of(url)}: there is nothing at this address")


def _too_large(rules: DownloadRules) -> DataError:
    return DataError(f"larger than {rules.max_bytes} bytes (HERDLIGHT_MAX_VIDEO_BYTES)")


def _too_slow(rules: DownloadRules) -> DataError:
    return DataError(f"not there after {rules.timeout_s:g} s (HERDLIGHT_URL_TIMEOUT_S)")


# http and https


@dataclass
class _Line:
    """The sockets of one download, which all close when its time is over."""

    rules: DownloadRules
    deadline_s: float
    sockets: list[socket.socket] = field(default_factory=list)
    late: bool = False

    def cut(self) -> None:
        """Close what is open: whoever reads from it gets an error."""
        self.late = True
        for opened in self.sockets:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    def connect(self, host: str, port: int) -> socket.socket:
        """Return a connection to an address of `host` that the rules allow."""
        left_s = max(0.1, self.deadline_s - time.monotonic())
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        for family, kind, protocol, _, address in found:
            if host.lower().strip("[]") not in self.rules.private_hosts and not is_public(str(address[0])):
                raise DataError(
                    f"{host} is an address of this machine or its own network, which is not fetched from; the server's "
                    "owner may allow it in HERDLIGHT_PRIVATE_HOSTS"
                )
            connection = socket.socket(family, kind, protocol)
            self.sockets.append(connection)
            connection.settimeout(left_s)
            try:
                connection.connect(address)
            except OSError as error:
                failure = error
                connection.close()
                continue
            return connection
        raise failure or OSError("no address")


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the open internet, also the IPv4 one that an IPv6 one may carry."""
    ip: _Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        carried = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            carried.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if not all(is_public(str(inner)) for inner in carried if inner is not None):
            return False
        if ip.ipv4_mapped is not None:
            return True
    return ip.is_global and not ip.is_multicast


def _openers(line: _Line) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context()

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = line.connect(self.host, self.port)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            self.sock = context.wrap_socket(line.connect(self.host, self.port), server_hostname=self.host)
            line.sockets.append(self.sock)

    class PlainHandler(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Plain, request)

    class SecureHandler(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Secure, request)

    class Redirects(urllib.request.HTTPRedirectHandler):
        max_redirections = _MAX_REDIRECTS

        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            fp.close()
            parts = _checked(newurl, line.rules)
            if parts.scheme not in ("http", "https") or (req.type == "https" and parts.scheme == "http"):
                raise DataError(f"leads on to {parts.scheme}, which is not followed")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = urllib.request.OpenerDirector()  # and no handler for files, ftp, data or proxies
    for handler in (PlainHandler(), SecureHandler(context=context), Redirects()):
        opener.add_handler(handler)
    for kind in (urllib.request.HTTPErrorProcessor, urllib.request.HTTPDefaultErrorHandler):
        opener.add_handler(kind())
    return opener


@contextlib.contextmanager
def _timed(rules: DownloadRules) -> Iterator[_Line]:
    line = _Line(rules, time.monotonic() + rules.timeout_s)
    timer = threading.Timer(rules.timeout_s, line.cut)
    timer.daemon = True
    timer.start()
    try:
        yield line
    finally:
        timer.cancel()
        for opened in line.sockets:
            opened.close()


def _http(url: str, target: Path, rules: DownloadRules) -> None:
    with _timed(rules) as line:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "herdlight", "Accept": "*/*"})
            with _openers(line).open(request, timeout=rules.timeout_s) as answer:
                declared = answer.headers.get("Content-Length")
                if declared is not None and declared.isdigit() and int(declared) > rules.max_bytes:
                    raise _too_large(rules)
                _copy(answer.read1, target, rules, url, line.deadline_s)
                if declared is not None and declared.isdigit() and target.stat().st_size != int(declared):
                    raise DataError(f"{name_of(url)}: the connection broke off")
        except urllib.error.HTTPError as error:
            error.close()
            reason = " ".join(str(error.reason).split())[:200]
            raise DataError(f"{name_of(url)}: the server answers {error.code} {reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if line.late or isinstance(error, TimeoutError):
                raise _too_slow(rules) from None
            why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise DataError(f"{name_of(url)}: cannot be fetched: {' '.join(str(why).split())[:200]}") from None
        if line.late:
            raise _too_slow(rules)


# Everything that fsspec knows


def _filesystem(scheme: str, url: str, target: Path, rules: DownloadRules) -> None:
    import fsspec

    package, extra = _EXTRAS.get(scheme, (scheme, ""))
    try:
        if scheme in _EXTRAS:
            importlib.import_module(package)
        source = fsspec.filesystem(scheme)  # not fsspec.open, which follows `a::b` from one scheme to another
    except (ImportError, ValueError):
        remedy = f"pip install 'herdlight[{extra}]'" if extra else "fsspec knows no such scheme"
        raise MissingExtra(f"scheme {scheme}: no package for it is installed; {remedy}") from None
    deadline_s, failures = time.monotonic() + rules.timeout_s, _failures(scheme)
    try:
        size = source.size(url)
        if size is not None and size > rules.max_bytes:
            raise _too_large(rules)
        with source.open(url, "rb") as opened:
            stream: IO[bytes] = opened
            _copy(stream.read, target, rules, url, deadline_s)
    except failures as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise DataError(f"{name_of(url)}: cannot be fetched: {reason}") from None


def _failures(scheme: str) -> tuple[type[Exception], ...]:
    """Return what a scheme's package raises beside OSError where there are no credentials."""
    places = {"s3": ("botocore.exceptions", "BotoCoreError"), "gs": ("google.auth.exceptions", "GoogleAuthError")}
    if scheme not in places:
        return (OSError,)
    module, name = places[scheme]
    return (OSError, getattr(importlib.import_module(module), name))


def rules_of_this_process() -> DownloadRules:
    """Return the rules that the environment of this process sets."""
    return DownloadRules.from_environment(os.environ)
