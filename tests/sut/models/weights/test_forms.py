"""Exports that can not be kept are one line, before anything is computed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from drumfire.sut.models import WeightsError
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights import forms


class Weight:
    def numel(self) -> int:
        return 10_000_000

    def element_size(self) -> int:
        return 4


class Network:
    """Of 40 MB."""

    def parameters(self) -> list[Weight]:
        return [Weight()]


def export(path: Path, form: Form) -> None:
    network: Any = Network()
    forms.export(network, Tensors.of_one((3, 8, 8)), path, form)


@pytest.mark.parametrize("form", Form)
def test_a_disk_without_room(form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 119_000_000))
    says = r"has 119 MB free, and exporting the network takes 120 MB: make room, or set MODEL_DIR to another disk$"
    with pytest.raises(WeightsError, match=says):
        export(tmp_path / f"network{form.value}", form)


@pytest.mark.parametrize("form", Form)
def test_a_cache_that_can_not_be_written(form: Form, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(WeightsError, match=r"^cannot write .*: .*; make room, or set MODEL_DIR$") as raised:
        export(tmp_path / "cache" / "models" / f"network{form.value}", form)
    assert "\n" not in str(raised.value)
