"""The rows of the tables that integer inputs are looked up in, read from files as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.models import vocabulary
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.models.vocabulary import Step, looked_up

FILES = Path(__file__).parents[2] / "data" / "onnx"


def tensors(*names: str) -> Tensors:
    return Tensors(tuple(Input(name, (None,), np.dtype(np.int64)) for name in names))


@pytest.mark.parametrize(
    ("file", "names", "rows"),
    [("two_inputs", ["input_ids", "attention_mask"], {"input_ids": 100}), ("uint8", ["x"], {})],
)
def test_an_onnx_file(file: str, names: list[str], rows: dict[str, int]) -> None:
    assert vocabulary.of(FILES / f"{file}.onnx", tensors(*names)) == rows


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    whole = (FILES / "two_inputs.onnx").read_bytes()
    path = tmp_path / "m.onnx"
    for content in (b"", b"\xff" * 50, whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert vocabulary.of(path, tensors("input_ids")) == {}
    assert vocabulary.of(tmp_path / "none.onnx", tensors("input_ids")) == {}


@pytest.mark.parametrize(
    ("steps", "rows"),
    [
        ([Step("Gather", ["table", "ids"], ["y"])], {"ids": 7}),
        ([Step("Cast", ["ids"], ["c"]), Step("Clip", ["c"], ["d"]), Step("Gather", ["table", "d"], ["y"])], {"ids": 7}),
        ([Step("Cast", ["table"], ["t"]), Step("Gather", ["t", "ids"], ["y"])], {"ids": 7}),
        ([Step("Gather", ["wide", "ids"], ["y"]), Step("Gather", ["table", "ids"], ["z"])], {"ids": 7}),
        ([Step("Gather", ["table", "ids"], ["y"], 1)], {}),
        ([Step("Add", ["ids", "ids"], ["c"]), Step("Gather", ["table", "c"], ["y"])], {}),
        ([Step("Gather", ["other", "ids"], ["y"])], {}),
    ],
)  # fmt: skip
def test_where_an_input_is_looked_up(steps: list[Step], rows: dict[str, int]) -> None:
    assert looked_up(["ids"], steps, {"table": 7, "wide": 50}) == rows


def test_an_exported_program(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from drumfire.sut.local.backends import interface

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words, self.types = torch.nn.Embedding(9, 4), torch.nn.Embedding(2, 4)

        def forward(self, ids: torch.Tensor, types: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            return self.words(ids.to(torch.int64)) + self.types(types) + other[..., None]

    given = torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3)
    dims = {0: torch.export.Dim("n"), 1: torch.export.Dim("s")}
    program = torch.export.export(Net().eval(), given, dynamic_shapes=(dims, dims, dims))
    torch.export.save(program, tmp_path / "m.pt2")
    found = interface.of_program(tmp_path / "m.pt2")[1]
    assert vocabulary.of(tmp_path / "m.pt2", found) == {"ids": 9, "types": 2}
