"""Addresses and what is sent with every request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drumfire.loadgen.errors import UserError
from drumfire.sut.remote.endpoint import Endpoint, Security, names, parse_http_url, parse_url


def test_security_travels_as_json() -> None:
    security = Security(Path("/ca.pem"), Path("/own.pem"), Path("/own.key"), (("authorization", "Bearer x"),), "a.b")
    assert Security.from_plain(json.loads(json.dumps(security.plain()))) == security
    assert Security.from_plain(json.loads(json.dumps(Security().plain()))) == Security()


@pytest.mark.parametrize(
    ("url", "endpoint", "target"),
    [
        ("http://host", Endpoint("http", "host", 80), "/"),
        ("https://host/a/b", Endpoint("https", "host", 443), "/a/b"),
        ("http://[::1]:8/p?x=1&y=%20", Endpoint("http", "::1", 8), "/p?x=1&y=%20"),
        ("http://host:1/a b/ä,b", Endpoint("http", "host", 1), "/a%20b/%C3%A4,b"),
        ("http://host?q", Endpoint("http", "host", 80), "/?q"),
    ],
)
def test_urls_with_paths(url: str, endpoint: Endpoint, target: str) -> None:
    assert parse_http_url(url) == (endpoint, target)


def test_text_and_back() -> None:
    for endpoint in (
        Endpoint("http", "host", 80),
        Endpoint("grpcs", "::1", 8001),
        Endpoint("line", "127.0.0.1", 1),
        Endpoint("https", "::1", 443, "/a/b%20c"),
    ):
        assert Endpoint.of(str(endpoint)) == endpoint


@pytest.mark.parametrize("url", ["grpc://h:1/x", "http://", "http://h:x/", "http://u:p@h/", "http://h/#f", "h:80/p"])
def test_urls_that_no_http_service_has(url: str) -> None:
    with pytest.raises(UserError, match="http://HOST:PORT/PATH"):
        parse_http_url(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://h", ""),
        ("http://h:8000/", ""),
        ("https://h/serving/triton/", "/serving/triton"),
        ("http://h/a b/v2", "/a%20b/v2"),
        ("grpc://h/", ""),
    ],
)
def test_the_path_before_each_request(url: str, path: str) -> None:
    assert parse_url(url).path == path


@pytest.mark.parametrize("url", ["grpc://h:1/a", "grpcs://h/a/b"])
def test_grpc_has_no_path(url: str) -> None:
    with pytest.raises(UserError, match=rf"^--url {url}: .* leave /a\S* out"):
        parse_url(url)


def test_servers_behind_one_proxy_have_names_of_their_own() -> None:
    assert names([Endpoint("http", "h", 1, "/a"), Endpoint("http", "h", 1, "/b")]) == ["h-1_a", "h-1_b"]


LABEL = "a" * 64


@pytest.mark.parametrize("host", ["a..b", f"{LABEL}.b", LABEL, "a\x7fb"])
@pytest.mark.parametrize("parse", [parse_http_url, parse_url])
def test_names_that_no_host_has(host: str, parse: Any) -> None:
    with pytest.raises(UserError, match=r"^--url http://.* cannot be the name of a host$"):
        parse(f"http://{host}:8000/")


@pytest.mark.parametrize("host", ["a..b", LABEL, "[", ":80"])
def test_host_fields_that_no_host_has(host: str) -> None:
    with pytest.raises(UserError, match=r"^--header host: .* cannot be the name of a host$"):
        Security.of(None, None, None, [f"host: {host}"])


@pytest.mark.parametrize("host", ["a.b.", "ä.example", "my_host", "[fe80::1]", "127.0.0.1", LABEL[1:]])
def test_names_that_hosts_have(host: str) -> None:
    assert parse_url(f"http://{host}:8000").host == host.strip("[]")


def test_the_host_field_replaces_the_address() -> None:
    security = Security.of(None, None, None, ["Host: model.example.com:81", "a: b"])
    endpoint = Endpoint("https", "10.0.0.1", 8443)
    assert security.headers == (("a", "b"),)
    assert Security.of(None, None, None, [":authority: model.example.com:81", "a: b"]) == security
    assert security.authority(endpoint) == "model.example.com:81"
    assert security.server_name(endpoint) == "model.example.com"
    assert Security().authority(endpoint) == "10.0.0.1:8443"
    assert Security().server_name(endpoint) == "10.0.0.1"


@pytest.mark.parametrize("field", ["Content-Length: 5", "transfer-encoding: chunked", "Accept-Encoding: x", "host: "])
def test_fields_that_a_user_cannot_set(field: str) -> None:
    with pytest.raises(UserError, match=field.partition(":")[0].lower()):
        Security.of(None, None, None, [field])
