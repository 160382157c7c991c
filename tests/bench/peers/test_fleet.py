"""The comparison of several generators: the stub server's rows of requests, and a short round as a program."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from drumfire.bench.peers.fleet import __main__ as program
from drumfire.bench.peers.fleet.stub import Connection
from drumfire.sut.kserve.http2.frames import F_PING, frame
from drumfire.sut.kserve.messages.exchange import Part
from drumfire.sut.kserve.messages.grpc_client import GrpcChannel, GrpcMessages
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec

IDENTITY = ModelInterface(
    "identity", "", "stub", (TensorSpec("INPUT0", "FP32", (-1,)),), (TensorSpec("OUTPUT0", "FP32", (-1,)),), 0
)
VALUES = np.arange(4, dtype=np.float32)


class Wire:
    """The stub's end of a connection without a socket."""

    def __init__(self) -> None:
        self.stub, self.written = Connection(), bytearray()
        self.stub.connection_made(self)  # type: ignore[arg-type]

    def write(self, data: bytes) -> None:
        self.written += data

    def answers(self, data: bytes, pieces: int = 1) -> bytes:
        size = -(-len(data) // pieces)
        for at in range(0, len(data), size):
            self.stub.data_received(data[at : at + size])
        told = bytes(self.written)
        self.written.clear()
        return told


@pytest.mark.parametrize("pieces", [1, 2, 7, 400])
def test_each_request_is_answered_however_its_bytes_come(pieces: int) -> None:
    messages = GrpcMessages(IDENTITY)
    messages.wanted = True
    channel, wire = GrpcChannel(messages, "stub"), Wire()

    def exchange() -> list[int]:
        data = b"".join(map(bytes, channel.out))
        channel.out.clear()
        replies = channel.receive(wire.answers(data, pieces))
        for _, outputs in replies:
            assert isinstance(outputs, list), outputs
            (output,) = outputs
            assert output.tobytes() == VALUES.tobytes()
        return [ticket for ticket, _ in replies]

    request = messages.request([Part((4,), VALUES.tobytes())])
    exchange()  # the settings
    before, expected = Connection.answered, []
    for turn, count in enumerate((1, 5, 1, 300)):
        for at in range(count):
            if at == 3:  # among the rows of requests
                channel.out.append(frame(F_PING, 0, 0, struct.pack(">Q", turn)))
            channel.send(len(expected), request)
            expected.append(len(expected))
    assert exchange() == expected
    assert Connection.answered - before == len(expected)


@pytest.mark.slow
@pytest.mark.serial
def test_a_short_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = ["--only", "workers", "worker"]
    assert program.main(["--rounds", "1", "--time", "0.3", *only, "--output", str(tmp_path / "R.md")]) == 0
    assert "failed" not in capsys.readouterr().err
    text = (tmp_path / "R.md").read_text()
    assert "## Beside one generator" in text
    assert "two workers, Offline: requests answered" in text
    assert "a worker, Server at 5,000/s: p99 lateness" in text
    assert "not measured" not in text
