"""The proof as one document and as Markdown.  The tables of what was measured are those of its parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drumfire.bench.peers.gpu import ceiling, gpu_tests, inference, meters, shared_memory, training_step
from drumfire.bench.peers.gpu.plan import Ended, Figure, Missing, figures
from drumfire.bench.peers.results import described, table

Document = dict[str, Any]


def document(
    ended: Sequence[Ended], expected: Iterable[Missing], about: Mapping[str, Any], *, interrupted: bool
) -> Document:
    """All that was measured, JSON-ready.  ``about``: the machine, the device and the command."""
    ceilings = {one["precision"]: one["flops_per_s"] for one in figures(ended, "ceiling")}
    loops = {(one["model"], one["precision"]): one for one in figures(ended, "bare")}
    for one in figures(ended, "run"):
        best, loop = ceilings.get(one["precision"]), loops[one["model"], one["precision"]]
        # Where samples differ in size, only Offline pads them as the loop does whose operations were counted.
        if best and (loop["one_size"] or one["scenario"] == "Offline"):
            one["of_ceiling"] = one["samples_per_s"] * loop["flops_per_sample"] / best
    return {
        **about,
        "interrupted": interrupted,
        "parts": [{"part": one.part, "status": one.status, "why": one.why, "took_s": one.took_s} for one in ended],
        "figures": [figure for one in ended for figure in one.figures],
        "unproven": [vars(one) for one in (*(m for e in ended for m in e.missing), *expected)],
    }


def section(found: Document) -> str:
    """The tables in Markdown, from the document."""
    of: dict[str, list[Figure]] = defaultdict(list)
    for figure in found["figures"]:
        of[figure["of"]].append(figure)
    blocks = [_machine(found)]
    for part in (ceiling, inference, training_step, meters, shared_memory, gpu_tests):
        blocks += part.tables(of)
    blocks += [_parts(found["parts"]), _unproven(found["unproven"])]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _machine(found: Document) -> str:
    date = found["started"] + (", interrupted" if found["interrupted"] else "")
    command = f"* command: `{found['command']}`, {found['took_s']:.0f} s"
    return f"{described(found['environment'], date, found['load'])}\n{command}"


def _parts(parts: Sequence[Mapping[str, Any]]) -> str:
    rows = [(one["part"], one["status"], f"{one['took_s']:.0f} s", _cell(one["why"])) for one in parts]
    return table(("part", "status", "took", "why"), rows)


def _unproven(missing: Sequence[Mapping[str, Any]]) -> str:
    return "Unproven:\n\n" + ("\n".join(f"* {one['what']}: {one['why']}" for one in missing) or "* nothing")


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
