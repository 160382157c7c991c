"""``drumfire triton-local``: runs a real Triton on this machine until Ctrl-C, to try remote runs.

Handles the screen; ``drumfire.sut.remote.triton_local.server`` starts and ends the server.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from rich.console import Console

from drumfire.bench import statuses
from drumfire.bench.options.parser import Command
from drumfire.loadgen import installation
from drumfire.loadgen.options import option
from drumfire.sut.remote.triton_local.server import MODELS, USUAL_PORTS, LocalTriton


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire triton-local``."""

    json: bool = option(False, help="print one JSON object when it is ready")


def triton_local(options: Options) -> int:
    """Run the server, and return DONE after Ctrl-C or SIGTERM, FAILED if it ended by itself.

    Raises ``LocalTritonError``.
    """
    console = Console(stderr=options.json, highlight=False, markup=False, soft_wrap=True)
    with LocalTriton(say=console.print, ports=USUAL_PORTS) as triton:
        try:
            _announce(triton, console, as_json=options.json)
            triton.wait()
            print(f"drumfire: Triton ended by itself: {triton.last_line()}", file=sys.stderr)
            return statuses.FAILED
        except KeyboardInterrupt:
            return statuses.DONE


COMMAND = Command(Options, triton_local, "Start a real Triton server on this machine, to try remote runs.")


def _announce(triton: LocalTriton, console: Console, *, as_json: bool) -> None:
    grpc, http, metrics = f"grpc://{triton.grpc}", f"http://{triton.http}", f"http://{triton.metrics}/metrics"
    if as_json:
        ready = {"grpc": grpc, "http": http, "metrics": metrics, "pid": triton.pid, "models": MODELS}
        print(json.dumps(ready), flush=True)
        return
    drumfire = installation.program("drumfire")
    console.print(
        f"Triton is ready (Ctrl-C ends it){_other_ports(triton)}\n\n"
        f"    gRPC      {grpc}\n    HTTP      {http}\n    metrics   {metrics}\n    models    {', '.join(MODELS)}\n\n"
        f"    {drumfire} run triton digits --url {grpc} --scenario Server --qps 200 --time 10\n"
        f"    {drumfire} run triton digits --url {http} --scenario Offline --accuracy\n"
    )


def _other_ports(triton: LocalTriton) -> str:
    """A note on Triton's usual ports that another program uses."""
    ports = [int(address.rpartition(":")[2]) for address in (triton.grpc, triton.http, triton.metrics)]
    taken = [str(usual) for usual, own in zip(USUAL_PORTS, ports, strict=True) if own != usual]
    return f"; on other ports, because another program uses {', '.join(taken)}" if taken else ""
