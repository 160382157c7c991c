"""The comparison of the http target with aiohttp: the stub service, and a short round as a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from drumfire.bench.peers.http import __main__ as program
from drumfire.bench.peers.http.stub import REPLY, Connection

REQUESTS = b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Transport:
    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: bytes) -> None:
        self.written += data


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_each_request_is_answered_however_its_bytes_come(size: int) -> None:
    transport, connection, before = Transport(), Connection(), Connection.answered
    connection.connection_made(transport)  # type: ignore[arg-type]
    for at in range(0, len(REQUESTS), size):
        connection.data_received(REQUESTS[at : at + size])
    assert Connection.answered - before == 2
    assert transport.written.count(REPLY) == transport.written.count(b"HTTP/1.1 200 OK\r\n") == 2


@pytest.mark.slow
@pytest.mark.serial
def test_a_short_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("aiohttp", reason="needs the extra tritonclient")
    assert program.main(["--rounds", "1", "--time", "0.3", "--output", str(tmp_path / "R.md")]) == 0
    assert "failed" not in capsys.readouterr().err
    text = (tmp_path / "R.md").read_text()
    assert "## Beside aiohttp" in text
    assert "client CPU a request, 64 at a time" in text
    assert "not measured" not in text
