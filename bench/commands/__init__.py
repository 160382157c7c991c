"""The commands, one file each: its options and what it does.  A command is imported only when it is chosen."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drumfire.bench.options.parser import Command

Lines = Mapping[str, "str | tuple[str, Mapping[str, str]]"]

COMMANDS: Lines = {
    "run": "drive a model with MLPerf traffic and judge the result",
    "show": "print the report of a saved run",
    "audit": "do a run and the same run under an audit's rules, and check that they agree",
    "calibrate": "measure this machine's own ceiling and lateness, with a system that answers at once",
    "prepare": (
        "fetch, generate or check data and weights",
        {
            "fake": "generate a data set in a real one's layout, with labels and annotations",
            "check": "check that a data folder is complete, and show what is missing",
            "weights": "fetch the published weights of a model; resumes where it stopped",
            "quantize": "make a model's int8 ONNX file for onnxruntime, and compare the two",
        },
    ),
    "cluster": (
        "manage the hosts that drumfire run --hosts sends from (a Ray cluster)",
        {
            "up": "start the cluster's head on this host",
            "join": "let this host send load; it needs the head's token",
            "down": "end only what up and join started on this host",
            "status": "show what runs here and the cluster's hosts",
        },
    ),
    "serve": "serve models over HTTP and gRPC, as Triton's clients and 'drumfire run triton' speak them",
    "models": "list the models and what each needs",
    "doctor": "check this machine: packages, clocks, timers, GPUs",
    "triton-local": "start a real Triton server on this machine, to try remote runs",
    "completion": "print a completion script for a shell",
}
"""The line of each command on the help page, and of the commands below it."""


def load(path: Sequence[str]) -> Command:
    """The command at ``path``: its name, or two names."""
    module = importlib.import_module(f"{__name__}.{path[0].replace('-', '_')}")
    command: Command = module.COMMANDS[path[1]] if len(path) > 1 else module.COMMAND
    return command
