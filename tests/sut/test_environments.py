from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from drumfire.sut import environments
from drumfire.sut.environments import EnvironmentFailed, made


def test_what_fails_leaves_nothing_and_the_next_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], *_: str) -> None:
        asked.append(command)
        if "venv" in command:
            Path(command[-1], "bin").mkdir(parents=True)
        elif len(asked) == 2:
            raise EnvironmentFailed("no network")

    monkeypatch.setattr(environments, "_run", run)
    with pytest.raises(EnvironmentFailed, match="no network"):
        made(tmp_path, "tool", ["tool==1"], print)
    folder = made(tmp_path, "tool", ["tool==1"], print, options=["--no-deps"])
    assert made(tmp_path, "tool", ["tool==1"], print) == folder
    assert ["venv" in command for command in asked] == [True, False, True, False]
    assert asked[-1][-2:] == ["--no-deps", "tool==1"]
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, f"{folder.name}.lock"}
    assert made(tmp_path, "tool", ["tool==2"], print) != folder


def test_several_that_ask_at_once_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "_run", lambda command, *_: Path(command[-1]).mkdir(exist_ok=True))
    finished, got, all_ask = [], [], threading.Barrier(4)

    def finish(folder: Path) -> None:
        assert not (folder / "half").exists()
        finished.append(folder)
        time.sleep(0.1)
        (folder / "whole").touch()

    monkeypatch.chdir(tmp_path)
    left_by_one_that_was_killed = made(tmp_path, "tool", ["x"], print).with_suffix(".unfinished") / "half"
    made(tmp_path, "tool", ["x"], print).rename(tmp_path / "away")
    left_by_one_that_was_killed.mkdir(parents=True)

    def need() -> None:
        all_ask.wait()
        got.append(made(tmp_path, "tool", ["x"], lambda _: None, finish=finish))

    threads = [threading.Thread(target=need) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == 1
    assert [(folder / "whole").exists() for folder in got] == [True] * 4
    assert not left_by_one_that_was_killed.parent.exists()


def test_what_pip_says_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        made(tmp_path, "tool", ["not a requirement"], print)
    assert "\n" not in str(caught.value)
    assert "WARNING" not in str(caught.value)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
