"""What the device can do at best: its matrix product in each precision, and its copies from and to the host.

Runs as a program: see ``child``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from drumfire.bench.assemble.local import spare_cores
from drumfire.bench.peers.bare_loop import calls_per_s
from drumfire.bench.peers.gpu.cells import Kinds, block, si
from drumfire.bench.peers.gpu.child import Case, Found, carry_out
from drumfire.bench.peers.gpu.plan import Missing

_LEAST_S = 0.1
_TIMES = 6
_SIDE = {"gpu": 8192, "cpu": 768}
"""Rows and columns of the square matrices."""
_COPY_BYTES = {"gpu": 1 << 28, "cpu": 1 << 26}


def measure(case: Case) -> Iterator[Found]:
    """Figures of kind ``ceiling`` (``precision``, ``flops_per_s``) and ``copies`` (bytes a second)."""
    import torch

    from drumfire.bench.peers.gpu.bare import dtype, set_products

    torch.set_num_threads(spare_cores())  # as many as the models have
    device = "cuda" if case["device"] == "gpu" else "cpu"
    side = _SIDE[case["device"]]
    for precision in case["precisions"]:
        set_products(precision)
        a, b = (torch.randn(side, side, device=device, dtype=dtype(precision)) for _ in range(2))
        calls_per_s = _rate(partial(torch.mm, a, b), device)
        yield {"of": "ceiling", "precision": precision, "side": side, "flops_per_s": 2 * side**3 * calls_per_s}
    size = _COPY_BYTES[case["device"]]
    host, there = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8, device=device)
    copies: dict[str, Any] = {"of": "copies", "to_bytes_per_s": size * _rate(lambda: there.copy_(host), device)}
    if device == "cuda":
        pinned = host.pin_memory()
        copies |= {
            "pinned_to_bytes_per_s": size * _rate(lambda: there.copy_(pinned, non_blocking=True), device),
            "pinned_from_bytes_per_s": size * _rate(lambda: pinned.copy_(there, non_blocking=True), device),
            "device": torch.cuda.get_device_name(),
        }
    else:
        yield Missing("copies from pinned memory", "the cpu has none", expected=True)
    yield copies


def _rate(call: Callable[[], object], device: str) -> float:
    """Calls a second, the best of some times: what else runs on the machine is no part of a ceiling."""
    from drumfire.bench.peers.gpu.bare import waiting

    wait = waiting(device)
    return max(calls_per_s(call, _LEAST_S, given=[()] * 4, wait=wait) for _ in range(_TIMES))


def tables(of: Kinds) -> Sequence[str]:
    """What ``measure`` found, in Markdown."""
    rows = [
        (f"matrix product, {one['precision']}, {one['side']} x {one['side']}", si(one["flops_per_s"], "FLOP/s"))
        for one in of["ceiling"]
    ]
    texts = {
        "to_bytes_per_s": "copy to the device, plain memory",
        "pinned_to_bytes_per_s": "copy to the device, pinned memory",
        "pinned_from_bytes_per_s": "copy from the device, pinned memory",
    }
    rows += [(text, si(one[name], "B/s")) for one in of["copies"] for name, text in texts.items() if name in one]
    return [block(("the device's own", "measured"), rows)]


if __name__ == "__main__":
    sys.exit(carry_out(measure))
