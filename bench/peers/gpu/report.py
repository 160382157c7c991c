"""The proof as one document and as tables.  Only formats: what was measured comes from ``plan.Ended``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drumfire.bench.peers.goal import number
from drumfire.bench.peers.gpu.plan import Ended, Figure, Missing, figures
from drumfire.bench.peers.results import described, table

Document = dict[str, Any]
_MOST_SIZES = 4
"""Batch sizes that the table shows, those with the most samples."""


def document(
    ended: Sequence[Ended], expected: Iterable[Missing], about: Mapping[str, Any], *, interrupted: bool
) -> Document:
    """All that was measured, JSON-ready.  ``about``: the machine, the device and the command."""
    ceilings = {one["precision"]: one["flops_per_s"] for one in figures(ended, "ceiling")}
    loops = {(one["model"], one["precision"]): one for one in figures(ended, "bare")}
    for one in figures(ended, "run"):
        ceiling, loop = ceilings.get(one["precision"]), loops[one["model"], one["precision"]]
        # Where samples differ in size, only Offline pads them as the loop does whose operations were counted.
        if ceiling and (loop["one_size"] or one["scenario"] == "Offline"):
            one["of_ceiling"] = one["samples_per_s"] * loop["flops_per_sample"] / ceiling
    return {
        **about,
        "interrupted": interrupted,
        "parts": [{"part": one.part, "status": one.status, "why": one.why, "took_s": one.took_s} for one in ended],
        "figures": [figure for one in ended for figure in one.figures],
        "unproven": [vars(one) for one in (*(m for e in ended for m in e.missing), *expected)],
    }


def section(found: Document) -> str:
    """The tables in Markdown, from the document."""
    of: dict[str, list[Figure]] = {}
    for figure in found["figures"]:
        of.setdefault(figure["of"], []).append(figure)
    blocks = [_machine(found)]
    if "ceiling" in of:
        blocks.append(_ceilings(of["ceiling"], of.get("copies", [])))
    if "run" in of:
        blocks.append(_runs(of["run"]))
    if "bare" in of:
        blocks.append(_bare(of["bare"]))
    if "training" in of:
        blocks.append(_training(of["training"]))
    if "meter" in of:
        blocks.append(_meters(of["meter"]))
    blocks += [_single(of), _parts(found["parts"]), _unproven(found["unproven"])]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _machine(found: Document) -> str:
    date = found["started"] + (", interrupted" if found["interrupted"] else "")
    command = f"* command: `{found['command']}`, {found['took_s']:.0f} s"
    return f"{described(found['environment'], date, found['load'])}\n{command}"


def _ceilings(ceilings: Sequence[Figure], copies: Sequence[Figure]) -> str:
    rows = [
        (f"matrix product, {one['precision']}, {one['side']} x {one['side']}", _si(one["flops_per_s"], "FLOP/s"))
        for one in ceilings
    ]
    texts = {
        "to_bytes_per_s": "copy to the device, plain memory",
        "pinned_to_bytes_per_s": "copy to the device, pinned memory",
        "pinned_from_bytes_per_s": "copy from the device, pinned memory",
    }
    rows += [(text, _si(one[name], "B/s")) for one in copies for name, text in texts.items() if name in one]
    return table(("the device's own", "measured"), rows)


def _runs(runs: Sequence[Figure]) -> str:
    head = ("model", "precision", "way", "scenario", "samples/s", "over the bare loop", "of the ceiling", "p99, ms",
            "beside computing", "batches: size x number")  # fmt: skip
    rows = [
        (
            one["model"], one["precision"], one["way"], one["scenario"], number(one["samples_per_s"]),
            _ratio(one.get("over_bare")), _share(one.get("of_ceiling")), number(one["p99_ns"] * 1e-6),
            _share(one.get("beside_computing")), _sizes(one["batch_sizes"]),
        )
        for one in runs
    ]  # fmt: skip
    return table(head, rows)


def _bare(loops: Sequence[Figure]) -> str:
    head = ("bare loop", "precision", "batches of", "samples/s", "computing alone", "FLOP a sample", "backend")
    rows = [
        (
            one["model"], one["precision"], str(one["batch_size"]), number(one["samples_per_s"]),
            number(one["computing_per_s"]), _si(one["flops_per_sample"], ""), one["description"],
        )
        for one in loops
    ]  # fmt: skip
    return table(head, rows)


def _training(runs: Sequence[Figure]) -> str:
    head = ("training", "precision", "images/s", "over the plain loop", "slowest step, ms", "waiting for data")
    rows = [
        (
            one["label"], one["precision"], number(one["images_per_s"]), _ratio(one["over_bare"]),
            number(one["slowest_step_s"] * 1e3), _share(one["waiting"]),
        )
        for one in runs
    ]  # fmt: skip
    return table(head, rows)


def _meters(meters: Sequence[Figure]) -> str:
    head = ("NVML, during", "use, mean", "use, most", "power, mean", "power, most", "memory, most")
    rows = [
        (
            one["part"], _share(one.get("mean_utilization")), _share(one.get("most_utilization")),
            _unit(one.get("mean_power_w"), "W"), _unit(one.get("most_power_w"), "W"),
            _si(one["most_memory_bytes"], "B") if "most_memory_bytes" in one else "",
        )
        for one in meters
    ]  # fmt: skip
    return table(head, rows)


def _single(of: Mapping[str, Sequence[Figure]]) -> str:
    lines = []
    for one in of.get("shared memory", ()):
        speeds = ", ".join(f"{word} {_si(one[f'{word}_bytes_per_s'], 'B/s')}" for word in ("write", "read"))
        lines.append(f"* CUDA shared memory: another process opened, read and changed it; {speeds}")
    for one in of.get("shared memory run", ()):
        lines.append(f"* a run over CUDA shared memory: {number(one['samples_per_s'])} samples/s")
    if of.get("metrics"):
        lines.append("* the server's metrics have the GPU's use, power and memory")
    tests = of.get("test", ())
    if tests:
        passed = sum(one["outcome"] == "passed" for one in tests)
        lines.append(f"* tests marked gpu: {passed} passed, {len(tests) - passed} failed")
        lines += [f"  * failed: {one['name']}: {one['why']}" for one in tests if one["outcome"] == "failed"]
    return "\n".join(lines)


def _parts(parts: Sequence[Mapping[str, Any]]) -> str:
    rows = [(one["part"], one["status"], f"{one['took_s']:.0f} s", _cell(one["why"])) for one in parts]
    return table(("part", "status", "took", "why"), rows)


def _unproven(missing: Sequence[Mapping[str, Any]]) -> str:
    return "Unproven:\n\n" + ("\n".join(f"* {one['what']}: {one['why']}" for one in missing) or "* nothing")


def _sizes(sizes: Mapping[str, int]) -> str:
    most = sorted(sizes, key=lambda size: -int(size) * sizes[size])
    shown = ", ".join(f"{size} x {sizes[size]:,}" for size in sorted(most[:_MOST_SIZES], key=int))
    others = sum(sizes[size] for size in most[_MOST_SIZES:])
    return shown + (f", {others:,} of other sizes" if others else "")


def _si(value: float, unit: str) -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{number(value / factor)} {prefix}{unit}"
    return f"{number(value)} {unit}".rstrip()


def _unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
