"""The commands, one file each: its options and what it does.  A command is imported only when it is chosen."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drumfire.bench.options.parser import Command

COMMANDS = {
    "run": "drive a model with MLPerf traffic and judge the result",
    "show": "print the report of a saved run",
    "report": "write a page of saved runs: latency over time and by percentile, rate, batches; several overlaid",
    "compare": "compare saved runs: is B slower than A, by how much, and how sure is that",
    "history": "list the runs in a folder: when, what, verdict, main figure and size (also: runs)",
    "history prune": "remove runs by rule, or what is large of them; first, show what would be removed (also: clean)",
    "export": "write a saved run for other programs: a row for each sample as CSV, Parquet or JSON lines",
    "ab": "run A and B in turns, and tell whether B is slower than A",
    "sweep": "do a run at each of several values of an option, and tell which is best",
    "audit": "do a run and the same run under an audit's rules, and check that they agree",
    "calibrate": "measure this machine's own ceiling and lateness, with a system that answers at once",
    "prepare": "fetch, generate or check data and weights",
    "prepare fake": "generate a data set in a real one's layout, with labels and annotations",
    "prepare check": "check that a data folder is complete, and show what is missing",
    "prepare weights": "fetch the published weights of a model; resumes where it stopped",
    "prepare quantize": "make a model's int8 ONNX file for onnxruntime, and compare the two",
    "cluster": "manage the hosts that drumfire run --hosts sends from (a Ray cluster)",
    "cluster up": "start the cluster's head on this host",
    "cluster join": "let this host send load; it needs the head's token",
    "cluster down": "end only what up and join started on this host",
    "cluster status": "show what runs here and the cluster's hosts",
    "serve": "serve models over HTTP and gRPC, as Triton's clients and 'drumfire run triton' speak them",
    "models": "list the models and what each needs",
    "doctor": "check this machine: packages, clocks, timers, limits, GPUs",
    "triton-local": "start a real Triton server on this machine, to try remote runs",
    "completion": "print a completion script for a shell",
}
"""The line of each command on the help page."""
ALSO = {"runs": "history", "clean": "history prune"}
"""Other words for commands."""
_BOTH = ("history",)
"""Commands with others below them; what else has some only groups them."""


def below(path: Sequence[str]) -> dict[str, str]:
    """The names of the commands below ``path``, with their lines; none below a command that runs."""
    return {words[-1]: line for name, line in COMMANDS.items() if (words := name.split())[:-1] == list(path)}


def runs(path: Sequence[str]) -> bool:
    """Whether this is a command, and not only a group of some."""
    return " ".join(path) in _BOTH or (" ".join(path) in COMMANDS and not below(path))


def load(name: str) -> Command:
    """The command of this name, such as ``prepare fake``."""
    first, _, task = name.partition(" ")
    module = importlib.import_module(f"{__name__}.{first.replace('-', '_')}")
    command: Command = module.COMMANDS[task] if task else module.COMMAND
    return command


def everything() -> Mapping[str, Command]:
    """All commands that run, by name."""
    return {name: load(name) for name in COMMANDS if runs(name.split())}
