"""Schedules TVM's loops for a CPU: parallel outside, vectors inside, sums kept in registers.

Without it TVM runs each loop as written, some seven times slower for a small convolutional network.
"""

from __future__ import annotations

from typing import Any

from tvm import s_tir, tirx
from tvm.s_tir import dlight

_LANES = 16
"""Numbers of 32 bits in the widest vector registers."""
_CHANNELS = (8, 4, 2, 1)
"""Output channels that are summed together, so that each number is read once for all of them."""


class CpuLoops(dlight.ScheduleRule):  # type: ignore[misc]
    """Schedules every function that it can handle; leaves the others as they are."""

    def apply(self, func: Any, target: Any, tunable: bool) -> Any:
        """See ``dlight.ScheduleRule.apply``."""
        if not isinstance(func, tirx.PrimFunc):
            return None
        schedule = s_tir.Schedule(func)
        try:
            blocks = dlight.normalize_prim_func(schedule)
            if blocks is None:
                return None
            for block in _left_after_inlining(schedule, blocks):
                _schedule(schedule, block)
        except (s_tir.ScheduleError, ValueError, TypeError):
            return None
        return schedule


def _left_after_inlining(schedule: Any, blocks: list[Any]) -> list[Any]:
    """The blocks that remain after elementwise blocks are inlined into the next.

    Padding stays, as its condition would otherwise be in the inner loop.
    """
    left = []
    for block in blocks[:-1]:
        if block.is_injective() and not block.name.startswith("pad"):
            try:
                schedule.compute_inline(block.block_rv)
                continue
            except s_tir.ScheduleError:
                pass
        left.append(block)
    return [*left, blocks[-1]]


def _schedule(schedule: Any, block: Any) -> None:
    loops = list(zip(schedule.get_loops(block.block_rv), block.dom_kind(), strict=True))
    places = [loop for loop, kind in loops if kind == "S"]
    sums = [loop for loop, kind in loops if kind != "S"]
    if not places:
        return
    if not sums:
        outer, _, inner = schedule.split(schedule.fuse(*places), [None, 4, _LANES])
        schedule.parallel(outer)
        schedule.vectorize(inner)
        return
    outer, inner = schedule.split(places[-1], [None, _lanes(int(schedule.get(places[-1]).extent))])
    if len(places) == 4:
        _sum_in_registers(schedule, block, places, sums, outer, inner)
    else:
        schedule.reorder(*places[:-1], outer, *sums, inner)
        schedule.parallel(schedule.fuse(*places[:-1], outer))
    schedule.vectorize(inner)
    schedule.decompose_reduction(block.block_rv, sums[0])


def _sum_in_registers(schedule: Any, block: Any, places: list[Any], sums: list[Any], outer: Any, inner: Any) -> None:
    """Schedule a sum over (image, channel, row, column): some channels of a piece of a row at a time."""
    image, channel, row, _ = places
    apart = "group" in block.name or "depthwise" in block.name  # each output channel reads another input channel
    count = int(schedule.get(channel).extent)
    together = 1 if apart else next(size for size in _CHANNELS if count % size == 0)
    channels, one = schedule.split(channel, [None, together])
    schedule.reorder(image, channels, row, outer, *sums, one, inner)
    parallel = schedule.fuse(image, channels, row)
    schedule.unroll(one)
    written = schedule.cache_write(block.block_rv, 0, "local")
    schedule.reverse_compute_at(written, outer)
    schedule.vectorize(schedule.get_loops(written)[-1])
    schedule.parallel(parallel)


def _lanes(extent: int) -> int:
    """The numbers of a row in one vector: a divisor that fills more than half a register, else the best for two."""
    most, more = (max(size for size in range(1, lanes + 1) if extent % size == 0) for lanes in (_LANES, 2 * _LANES))
    return most if most > _LANES // 2 else more
