"""A small generated data set, and ranks started as torchrun starts them, but each one's end can be looked at."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from drumfire.loadgen.installation import ROOT


@dataclass
class Ended:
    status: int
    stderr: str
    stdout: str


class Ranks:
    """The processes of one run."""

    def __init__(self, arguments: Sequence[str], count: int, folder: Path, program: Sequence[str]) -> None:
        self.processes = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(count):
            places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            told = {name: str(value) for name, value in places.items()} if count > 1 else {}
            told |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *program, *arguments],
                    cwd=folder,
                    env=os.environ | {"PYTHONPATH": str(ROOT)} | told,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def ended(self, within_s: float = 120) -> list[Ended]:
        """Wait for all."""
        found = []
        for process in self.processes:
            stdout, stderr = process.communicate(timeout=within_s)
            found.append(Ended(process.returncode, stderr, stdout))
        return found

    def kill(self, rank: int) -> None:
        self.processes[rank].send_signal(signal.SIGKILL)

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """More would only disturb the ranks beside."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 + 7 of the small benchmark's pictures: 3 batches of 8, and a rest of 1."""
    from drumfire.training import pictures

    folder = tmp_path_factory.mktemp("data") / "shapes"
    recipe = pictures.Recipe(sizes=((96, 96),), train=25, validation=7, categories=(1, 3, 7))
    pictures.generate(folder, recipe)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Ranks]]:
    started: list[Ranks] = []

    def begin(*arguments: str, ranks: int = 1, program: Sequence[str] = ("-m", "drumfire.training")) -> Ranks:
        started.append(Ranks(arguments, ranks, tmp_path, program))
        return started[-1]

    yield begin
    for run in started:
        run.close()
