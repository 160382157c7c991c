"""A server's address and the security of its connections: URLs, TLS, tokens.

Does not depend on the messages.
"""

from __future__ import annotations

import re
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.http1.connection import OWN_FIELDS

_PORTS = {"grpc": 8001, "grpcs": 8001, "http": 8000, "https": 8000}
"""Triton's defaults."""


class Endpoint(NamedTuple):
    """One port of one server."""

    scheme: str
    """Such as grpc, grpcs, http or https; one that ends in s uses TLS."""
    host: str
    port: int
    path: str = ""
    """Comes before the path of each request, as proxies need it that serve several servers: /a/b, or empty."""

    @property
    def is_grpc(self) -> bool:
        return self.scheme.startswith("grpc")

    @property
    def tls(self) -> bool:
        return self.scheme.endswith("s")

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @classmethod
    def of(cls, text: str) -> Endpoint:
        """The inverse of ``str``."""
        scheme, _, rest = text.partition("://")
        authority, slash, path = rest.partition("/")
        host, _, port = authority.rpartition(":")
        return cls(scheme, host.strip("[]"), int(port), slash + path)


def parse_http_url(url: str) -> tuple[Endpoint, str]:
    """The endpoint and the target (path and query) of an ``http`` or ``https`` URL.  Raises ``ServerError``.

    Without a port, it is HTTP's own: 80, or 443 over TLS.
    """
    form = f"--url {url}: use http://HOST:PORT/PATH or https://…"
    parts, endpoint = _split(url, {"http": 80, "https": 443}, form)
    if parts.username or parts.fragment:
        raise ServerError(f"{form}, without user or fragment; pass a token with --header 'authorization: Bearer …'")
    target = _quoted(parts.path) or "/"
    if parts.query:
        target += "?" + urllib.parse.quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return endpoint, target


def names(endpoints: Sequence[Endpoint]) -> list[str]:
    """File-name part for each server: ``server``, or host and port if there are several."""
    if len(endpoints) == 1:
        return ["server"]
    texts = (f"{endpoint.host}-{endpoint.port}{endpoint.path}" for endpoint in endpoints)
    return [re.sub(r"[^A-Za-z0-9-]", "_", text) for text in texts]


def parse_url(url: str) -> Endpoint:
    """Parse ``grpc://host:8001``, ``http://host:8000``, ``http://host/path`` or their TLS forms.

    Raises ``ServerError``.
    """
    form = f"--url {url}: use grpc://HOST:PORT, grpcs://…, http://HOST:PORT/PATH or https://…"
    parts, endpoint = _split(url, _PORTS, form)
    if parts.username or parts.query or parts.fragment:
        raise ServerError(f"{form}, without user, query or fragment; pass a token with --header 'authorization: …'")
    path = _quoted(parts.path.rstrip("/"))
    if path and endpoint.is_grpc:
        raise ServerError(
            f"--url {url}: gRPC's paths name methods: leave {path} out; a proxy tells services by --header"
        )
    return endpoint._replace(path=path)


def _quoted(path: str) -> str:
    return urllib.parse.quote(path, safe="/%:@!$&'()*+,;=~-._")


def _split(url: str, ports: Mapping[str, int], form: str) -> tuple[urllib.parse.SplitResult, Endpoint]:
    """``ports``: the default port of each scheme that the URL may have.  ``form``: how to write it."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        raise ServerError(form) from None
    if parts.scheme not in ports or not parts.hostname:
        raise ServerError(form)
    if not _is_host(parts.hostname):
        raise ServerError(f"--url {url}: {parts.hostname!r} cannot be the name of a host")
    return parts, Endpoint(parts.scheme, parts.hostname, port or ports[parts.scheme])


def _is_host(name: str) -> bool:
    try:
        return name.isprintable() and bool(name.encode("idna"))
    except UnicodeError:  # an empty label, or one above 63 characters
        return False


@dataclass(frozen=True)
class Security:
    """How we check a server's certificate and identify ourselves."""

    ca: Path | None = None
    """Certificates to trust; None: the system's."""
    certificate: Path | None = None
    """Our certificate with its ``key``, for servers that require one."""
    key: Path | None = None
    headers: Sequence[tuple[str, str]] = ()
    """Sent with every request, such as tokens and tenants."""
    host: str | None = None
    """The name of the service in place of its address, as proxies that serve several need it."""

    @classmethod
    def of(cls, ca: Path | None, certificate: Path | None, key: Path | None, headers: Sequence[str]) -> Security:
        """From options.  Raises ``ServerError``."""
        parsed = [parse_header(text) for text in headers]
        for name, _ in parsed:
            if name in OWN_FIELDS - {"host"}:
                raise ServerError(f"--header {name}: Drumfire sets this field itself: leave it out")
        hosts = [value for name, value in parsed if name == "host"]
        if len(hosts) > 1 or not all(hosts):
            raise ServerError("--header host: give one name")
        for host in hosts:
            try:
                known = urllib.parse.urlsplit(f"//{host}").hostname
            except ValueError:
                known = None
            if not _is_host(known or ""):
                raise ServerError(f"--header host: {host!r} cannot be the name of a host")
        rest = tuple(field for field in parsed if field[0] != "host")
        return cls(ca, certificate, key, rest, hosts[0] if hosts else None)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Security:
        ca, certificate, key = (path and Path(path) for path in map(plain.get, ("ca", "certificate", "key")))
        headers = tuple((name, value) for name, value in plain.get("headers", ()))
        return cls(ca, certificate, key, headers, plain.get("host"))

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it, for another process; paths are absolute."""
        paths = {"ca": self.ca, "certificate": self.certificate, "key": self.key}
        return {name: path and str(path.absolute()) for name, path in paths.items()} | {
            "headers": [list(field) for field in self.headers],
            "host": self.host,
        }

    def authority(self, endpoint: Endpoint) -> str:
        """The Host field (HTTP/2: ``:authority``) of requests to an endpoint."""
        return self.host or endpoint.authority

    def server_name(self, endpoint: Endpoint) -> str:
        """The name in the server's certificate."""
        return endpoint.host if self.host is None else urllib.parse.urlsplit(f"//{self.host}").hostname or self.host

    def context(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        """The TLS context; None if the endpoint does not use TLS.  Raises ``ServerError`` for unusable files."""
        if not endpoint.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            named = ", ".join(str(path) for path in (self.ca, self.certificate, self.key) if path is not None)
            raise ServerError(f"cannot use the TLS files {named}: {error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"] if endpoint.is_grpc else ["http/1.1"])
        return context


def parse_header(text: str) -> tuple[str, str]:
    """Parse ``name: value``; the name becomes lower case, and HTTP/2's ``:authority`` is ``host``.

    Raises ``ServerError``.
    """
    name, colon, value = re.sub("^ *:authority *:", "host:", text, flags=re.IGNORECASE).partition(":")
    name, value = name.strip().lower(), value.strip()
    token = name.replace("-", "").replace("_", "").replace(".", "")
    if not colon or not token.isascii() or not token.isalnum() or not value.isascii() or not value.isprintable():
        raise ServerError(f"--header {text!r}: use 'name: value' in printable ASCII")
    return name, value
