"""The comparison with bare loops: a short round of what is installed, and how its rows are told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from drumfire.bench.peers import rounds
from drumfire.bench.peers.backends.__main__ import main
from drumfire.bench.peers.backends.measures import MEASURES
from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.rounds import BothSides
from tests.support.packages import EFFICIENTNET, need


def test_both_sides_come_out_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    told = SimpleNamespace(document={"ours": {"samples_per_s": 2.0}, "bare": {"samples_per_s": 3.0}})
    monkeypatch.setattr(rounds, "run", lambda *arguments, **options: asked.append(arguments) or told)
    case = BothSides("a.module", {"kind": "offline"})
    ours, bare = case.side("ours"), case.side("bare")
    assert (ours(1), bare(1)) == ({"samples_per_s": 2.0}, {"samples_per_s": 3.0})
    told.document = {"ours": {"samples_per_s": 4.0}, "bare": {"samples_per_s": 5.0}}
    assert (bare(1), ours(1)) == ({"samples_per_s": 5.0}, {"samples_per_s": 4.0})
    assert len(asked) == 2


def test_a_worker_that_fails_fails_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MeasurementError("no")

    monkeypatch.setattr(rounds, "run", fails)
    case = BothSides("a.module", {"kind": "offline"})
    for name in ("ours", "bare"):
        with pytest.raises(MeasurementError):
            case.side(name)(1)


def test_the_goals() -> None:
    by_name = {m.name: m for m in MEASURES}
    assert len(by_name) == 12
    for name, measure in by_name.items():
        figure = measure.figures[0]
        assert (figure.goal_ratio, figure.goal) == ((0.97, None) if name.startswith("offline@") else (None, 0.85))


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.extra
def test_a_short_round(tmp_path: Path) -> None:
    need(*EFFICIENTNET, "PIL", "onnxruntime")
    names = ["offline@onnxruntime-efficientnet-lite0", "server@onnxruntime-efficientnet-lite0"]
    assert main(["--rounds", "1", "--time", "0.5", "--only", *names, "--output", str(tmp_path / "R.md")]) == 0
    text = (tmp_path / "R.md").read_text()
    assert "## Beside bare loop" in text
    assert "efficientnet-lite0 on onnxruntime, Offline" in text
    assert "a lone sample takes" in text
    assert "not compared" not in text
    assert "not measured" not in text
