"""--log-level: what happens beside the measuring, on stderr; without it, not a word."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.command import here, one_line_error, result_of
from tests.support.scripted_peer import Peer, Talk
from tests.support.served import serving

RUN = ["--scenario", "Server", "--qps", "300", "--time", "0.6", "--max-latency", "100", "--json", "--no-dashboard"]
LINE = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ (\w+) (drumfire\.\w+): (.+)$", re.MULTILINE)


def lines(stderr: str) -> list[tuple[str, str, str]]:
    return LINE.findall(stderr)


def run(folder: Path, *more: object, checks: int = 0) -> str:
    """A run against a server that breaks each connection of the run after some answers; its standard error.

    ``checks``: connections that only check the server, two for each generator.
    """
    sending: list[Talk] = []

    def play(talk: Talk) -> None:
        for number, call in enumerate(talk.calls()):
            if not number and (folder / "settings.json").exists():
                sending.append(talk)
            talk.answer(call)
            if number == 60 and talk in sending[checks:]:
                talk.raw(b"\xff" * 64)  # no frame of HTTP/2
                return

    with Peer("grpc", play) as peer:
        done = here("run", "triton", "echo", "--url", peer.url, "--output", folder, *RUN, *more)
    result = result_of(done, done.returncode)
    assert result["system"]["server"]["events"]["connections replaced"] >= 1
    return done.stderr


def test_a_run_is_silent_without_it(tmp_path: Path) -> None:
    assert "drumfire." not in run(tmp_path / "out")


def test_reconnects_are_shown(tmp_path: Path) -> None:
    found = lines(run(tmp_path / "out", "--log-level", "info"))
    assert {logger for _, logger, _ in found} == {"drumfire.remote"}
    lost = [text for level, _, text in found if level == "WARNING"]
    again = [text for level, _, text in found if level == "INFO" and "connected again" in text]
    assert again
    assert lost
    assert all("connection lost after" in text and "broke the protocol" in text for text in lost)


@pytest.mark.slow
def test_a_higher_level_shows_less(tmp_path: Path) -> None:
    assert {level for level, _, _ in lines(run(tmp_path / "out", "--log-level", "WARNING"))} == {"WARNING"}


@pytest.mark.slow
def test_generators_say_who_they_are(tmp_path: Path) -> None:
    found = lines(run(tmp_path / "out", "--log-level", "info", "--workers", "2", checks=4))
    assert ("INFO", "drumfire.fleet", "2 generators are ready") in found
    remote = {text.partition(":")[0] for _, logger, text in found if logger == "drumfire.remote"}
    assert remote == {"worker 0", "worker 1"}


def test_a_level_that_is_none() -> None:
    one_line_error(here("run", "null", "digits", "--log-level", "loud"), "--log-level", "debug")


def break_in(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as connection:
        connection.sendall(b"not a protocol at all\r\n\r\n" * 4)
        connection.settimeout(20)
        while connection.recv(4096):
            pass


@pytest.mark.parametrize("shown", [True, False])
def test_a_server_shows_broken_protocols_and_tokens(tmp_path: Path, shown: bool) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("one\n")
    level = ["--log-level", "info"] if shown else []
    with serving("null", "identity", "--token-file", tokens, *level) as served:
        break_in(served.address("http"))
        break_in(served.address("grpc"))
        served.process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        stderr = served.end()
    found = lines(stderr)
    if not shown:
        assert found == []
        return
    assert json.dumps(served.ready)
    texts = [text for _, logger, text in found if logger == "drumfire.serving"]
    assert len(texts) == len(found)
    for part in ("serves identity version 1", "breaks HTTP/1.1", "breaks gRPC", "tokens read again"):
        assert any(part in text for text in texts), (part, texts)
    assert "one" not in " ".join(texts).split()
