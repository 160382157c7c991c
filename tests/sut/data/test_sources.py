"""Where samples come from: npz, ragged arrays, JSON lines and raw files give what was written, or are refused."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.sut.data.arrays import ArrayFile, ArrayFolder
from drumfire.sut.data.inputs import InputError, Inputs, Sample
from drumfire.sut.data.json_file import JsonFile, JsonLines
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.raw_files import RawFiles
from drumfire.sut.data.sizes import Chosen, choose
from drumfire.sut.data.sources import open_inputs
from drumfire.sut.kserve.messages.tensors import ModelInterface, Tensor, TensorSpec, as_array, unpack_bytes

IDS = TensorSpec("ids", "INT32", (-1,), dims=("s",))
Y, TEXT = TensorSpec("y", "FP32", (2,)), TensorSpec("t", "BYTES", (1,))


def model(*inputs: TensorSpec) -> ModelInterface:
    return ModelInterface("m", "", "", inputs, (Y,), 8)


def ids(sample: Sample) -> list[int]:
    values: list[int] = as_array("INT32", sample[0].shape, sample[0].data).tolist()
    return values


def refusal(source: object, interface: ModelInterface, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        open_inputs(str(source), choose(interface, InputOptions(**options), ""))
    text = str(error.value)
    assert text.isprintable()
    return text


@pytest.mark.parametrize("suffix", ["npz", "NPZ"])
def test_npz_holds_inputs_and_expected_outputs(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    with path.open("wb") as file:
        np.savez(file, ids=np.array([[1, 2], [3, 4]], np.int32), y=np.array([[0, 1], [2, 3]], np.float32))
    made = open_inputs(str(path), Chosen(model(IDS)))
    assert (made.name, made.total_count, made.description) == ("data", 2, f"2 samples in 2 arrays of {path}")
    assert [ids(made.sample(index)) for index in range(2)] == [[1, 2], [3, 4]]
    assert made.expected(1) == {"y": Tensor((2,), np.float32([2, 3]).tobytes())}
    unread = open_inputs(str(path), Chosen(ModelInterface("m", "", "", (IDS,), (), 8)), unread=("y",))
    assert (unread.unread, unread.expected(0)) == ("y.npy", None)


def test_npz_names_with_slashes_and_compression(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **{"a/ids:0": np.array([[7]], np.int32)})
    assert ids(ArrayFile(path, model(TensorSpec("a/ids:0", "INT32", (-1,)))).sample(0)) == [7]


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"ids": np.array([[1, "a"]], object)}, "ids.npy holds Python objects"),
        ({"ids": np.ones((2, 2))}, "ids.npy holds float64: INT32 needs numpy's int32"),
        ({"x": np.ones(2)}, "has x.npy, but may hold only ids.npy, y.npy"),
        ({"y": np.ones((2, 2), np.float32)}, "has y.npy, but lacks ids.npy, the samples of ids INT32[s]"),
        ({"ids": np.ones((2, 0), np.int32)}, "its samples are empty"),
        ({"ids": np.ones((0, 2), np.int32)}, "at least one, not 0"),
    ],
)
def test_npz_that_does_not_fit(arrays: dict[str, np.ndarray], why: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    assert why in refusal(tmp_path / "data.npz", model(IDS))


def test_npz_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, ids=np.arange(4000, dtype=np.int32).reshape(2, -1))
    whole = path.read_bytes()
    for content in (b"text", whole[:200], whole[: len(whole) // 2], whole.replace(b"NUMPY", b"NUMPI")):
        path.write_bytes(content)
        assert "data.npz" in refusal(path, model(IDS))
    path.write_bytes(b"")
    assert "it is empty" in refusal(path, model(IDS))


def ragged(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name.replace('_', '.')}.npy", array)
    return folder


def test_samples_of_different_lengths_are_values_and_offsets(tmp_path: Path) -> None:
    values, offsets = np.arange(6, dtype=np.int32), np.array([0, 1, 4, 6])
    made = ArrayFolder(ragged(tmp_path / "a", ids_values=values, ids_offsets=offsets), model(IDS))
    assert [ids(made.sample(index)) for index in range(3)] == [[0], [1, 2, 3], [4, 5]]
    assert [made.shapes(index) for index in range(3)] == [[(1,)], [(3,)], [(2,)]]
    # One open size follows from the others; of two, the shapes say which.
    wide = TensorSpec("ids", "INT32", (-1, 2))
    pairs = ragged(tmp_path / "b", ids_values=np.arange(8, dtype=np.int32), ids_offsets=np.array([0, 2, 8]))
    assert [list(ArrayFolder(pairs, model(wide)).shapes(index)) for index in range(2)] == [[(1, 2)], [(3, 2)]]
    ragged(pairs, ids_shapes=np.array([[2, 1], [2, 3]]))
    both = ArrayFolder(pairs, model(TensorSpec("ids", "INT32", (-1, -1))))
    assert as_array("INT32", *both.sample(1)[0]).tolist() == [[2, 3, 4], [5, 6, 7]]
    np.savez(tmp_path / "data.npz", **{"ids.values": values, "ids.offsets": offsets})
    assert ids(ArrayFile(tmp_path / "data.npz", model(IDS)).sample(1)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"ids_offsets": np.array([0, 6])}, "but lacks ids.values.npy"),
        ({"ids_values": np.arange(6, dtype=np.int32)}, "but lacks ids.offsets.npy"),
        ({"ids_offsets": np.array([0, 7])}, "rise from 0 to 6"),
        ({"ids_offsets": np.array([0, 4, 3, 6])}, "rise from 0 to 6"),
        ({"ids_offsets": np.array([0.0, 6.0])}, "n+1 integers"),
        ({"ids_offsets": np.array([0, 3, 3, 6])}, "sample 1 has 0 elements"),
        ({"ids_values": np.arange(6.0)}, "ids.values.npy holds float64"),
        ({"ids_values": np.zeros((3, 2), np.int32)}, "all elements in one row"),
        ({"ids_shapes": np.array([[1], [4]])}, "sample 0 has 2 elements and the shape [1]"),
        ({"ids_shapes": np.array([[2, 4]])}, "ids.shapes.npy needs integers of shape [2,1]"),
        ({"ids": np.zeros((2, 3), np.int32)}, "two forms of one"),
    ],
)
def test_ragged_arrays_that_do_not_fit(arrays: dict[str, np.ndarray], why: str, tmp_path: Path) -> None:
    whole = {"ids_values": np.arange(6, dtype=np.int32), "ids_offsets": np.array([0, 2, 6])}
    given = arrays if "lacks" in why else whole | arrays
    assert why in refusal(ragged(tmp_path / "a", **given), model(IDS))


@pytest.mark.parametrize(("name", "file"), [("values", "values"), ("a/b: values", "a%2Fb: values")])
@pytest.mark.parametrize("kind", [ArrayFolder, ArrayFile])
def test_files_of_any_input_are_called_by_their_names(kind: type[Inputs], name: str, file: str, tmp_path: Path) -> None:
    arrays = {f"{file}.values": np.arange(6, dtype=np.int32), f"{file}.offsets": np.array([0, 6])}
    path = tmp_path / "data.npz"
    np.savez(path, **arrays)
    if kind is ArrayFolder:
        path = ragged(tmp_path / "a", **arrays)
    interface = model(TensorSpec(name, "INT32", (-1, -1)))
    with pytest.raises(InputError) as error:
        kind(path, interface)  # type: ignore[call-arg]
    assert f" needs {file}.shapes.npy too" in str(error.value)
    arrays[f"{file}.offsets"] = np.array([0, 5])
    np.savez(tmp_path / "data.npz", **arrays)
    ragged(tmp_path / "a", **arrays)
    with pytest.raises(InputError) as error:
        kind(path, interface)  # type: ignore[call-arg]
    assert str(error.value).endswith(f"rise from 0 to 6, the elements of {file}.values.npy")


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "JSONL"])
def test_json_lines(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.{suffix}"
    path.write_text('{"ids": [1, 2], "y": [0, 1]}\n\n{"ids": {"content": [3], "shape": [1]}}\n')
    made = open_inputs(str(path), Chosen(model(IDS)))
    assert (made.name, made.total_count, made.description) == ("data", 2, f"2 samples of {path}")
    assert [ids(made.sample(index)) for index in range(2)] == [[1, 2], [3]]
    assert made.expected(0) == {"y": Tensor((2,), np.float32([0, 1]).tobytes())}
    assert made.expected(1) is None
    unread = JsonLines(path, ModelInterface("m", "", "", (IDS,), (), 8), ("y",))
    assert (unread.unread, unread.expected(0)) == ("y", None)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('{"ids": [1]}\n{"ids": [1, 2', "data.jsonl: line 2 is not JSON"),
        ('{"ids": [1]}\n\n[1]', "data.jsonl: line 3 must be an object"),
        ('{"ids": [1]}\n{"idz": [1]}', "data.jsonl: line 2: 'idz' is not one of ids"),
        ('{"ids": []}', "data.jsonl: line 1 ids: the shape [0] does not fit"),
        ('{"ids": [1.5]}', "data.jsonl: line 1 ids: element 0 is 1.5"),
        ("{}", "data.jsonl: line 1 lacks ids"),
        ("\n", "data.jsonl has no samples"),
    ],
)
def test_json_lines_that_are_wrong(lines: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(lines)
    assert why in refusal(tmp_path / "data.jsonl", model(IDS))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("data.jsonl", '{"ids": [1]}\n\n{"ids": [1], "ids": [2]}', "data.jsonl: line 3: an object has 'ids' twice"),
        ("data.json", '{"data": [{"ids": [1], "ids": [2]}]}', "data.json: an object has 'ids' twice: leave one out"),
        ("data.json", '{"data": [{"ids": [1]}], "data": []}', "data.json: an object has 'data' twice: leave one out"),
    ],
)
def test_a_key_that_an_object_has_twice(name: str, text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert why in refusal(tmp_path / name, model(IDS))


def of_zeros(shape: tuple[int, ...], size: int) -> bytes:
    """A .npy file whose header says this shape, with so many bytes after it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(size)


@pytest.mark.parametrize(
    ("shape", "size", "why"),
    [
        ((3, 2), 29, "29 bytes follow its header, which says int32 of shape [3, 2], 24 bytes"),
        ((3, 2), 23, "23 bytes follow its header, which says int32 of shape [3, 2], 24 bytes"),
        ((2**40, 2), 8, "8 bytes follow its header, which says int32 of shape [1099511627776, 2], 8,796,093,022,208"),
        ((2**63, 2**63), 8, "8 bytes follow its header, which says int32 of shape [9223372036854775808, 9"),
    ],
)
def test_an_array_of_another_size_than_its_header_says(
    shape: tuple[int, ...], size: int, why: str, tmp_path: Path
) -> None:
    """Nothing is read, or made, of such a size."""
    content = of_zeros(shape, size)
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("ids.npy", content)
    assert (text := refusal(tmp_path / "data.npz", model(IDS))).startswith(f"{tmp_path}/data.npz: ids.npy is not an ")
    assert why in text
    (tmp_path / "data.npz").unlink()
    (tmp_path / "ids.npy").write_bytes(content)
    assert f"{tmp_path}/ids.npy is not an array that numpy.save wrote: {why}" in refusal(tmp_path, model(IDS))


@pytest.mark.parametrize("other", ["ids.npy", "a%2Fb.npy"])
def test_a_member_that_an_npz_file_has_twice(other: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile, that it is there
        for name in ("ids.npy", "a/b.npy", other):
            archive.writestr(name, of_zeros((1, 1), 4))
    assert f"it has {other} twice" in refusal(tmp_path / "data.npz", model(IDS))


def test_other_files_of_a_folder_of_arrays_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.zeros((2, 3), np.int32))
    assert open_inputs(str(tmp_path), Chosen(model(IDS))).description == f"2 samples in 1 file of {tmp_path}"
    for name in (".hidden", "readme.txt", "a\nb", *"123456"):
        (tmp_path / name).touch()
    made = open_inputs(str(tmp_path), Chosen(model(IDS)))
    assert made.description == f"2 samples in 1 file of {tmp_path} (not used: 1, 2, 3, 4, 5 and 3 more)"


def test_expected_outputs_of_a_json_file_that_nothing_is_compared_with(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"data": [{"ids": [1]}], "validation_data": [{"y": [0, 1]}]}))
    made = JsonFile(path, ModelInterface("m", "", "", (IDS,), (), 8), ("y",))
    assert (made.unread, made.expected(0)) == ("y", None)


def test_raw_files_are_texts(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"\xff\x00")
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / ".hidden").write_bytes(b"no")
    made = open_inputs(str(tmp_path), Chosen(model(TEXT)))
    assert isinstance(made, RawFiles)
    assert [(made.sample(index)[0].shape, unpack_bytes(made.sample(index)[0].data)) for index in range(2)] == [
        ((1,), [b""]),
        ((1,), [b"\xff\x00"]),
    ]
    assert "lacks ids.npy" in refusal(tmp_path, model(IDS))
    (tmp_path / "inner").mkdir()
    assert "inner is a folder" in refusal(tmp_path, model(TEXT))


@pytest.mark.parametrize(
    ("source", "options", "why"),
    [
        ("none.npz", {}, "no such file or folder"),
        ("data.npz", {"range": ("ids=0..3",)}, "--range ids=0..3 is for random values"),
        ("zero", {"range": ("ids=0..3",), "dim": ("s=4",)}, "--range ids=0..3 is for random values"),
        ("data.npz", {"dim": ("s=1..3",)}, "its samples have their own sizes"),
        ("data.npz", {"dim": ("s=3",)}, "ids INT32[3] needs [samples, *its own shape]"),
        ("random", {}, "ids INT32[s] has open sizes: set them with --dim s=128, or give --input-data"),
    ],
)
def test_what_a_source_cannot_take(
    source: str, options: dict[str, Any], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("data.npz", ids=np.zeros((2, 2), np.int32))
    assert why in refusal(source, model(IDS), **options)


def drawn(*specs: TensorSpec, known: Any = None, **options: Any) -> tuple[str, list[np.ndarray]]:
    made: Inputs = open_inputs(None, choose(model(*specs), InputOptions(**options)), known=known)
    return made.description, [
        as_array(spec.datatype, *tensor) for spec, tensor in zip(specs, made.sample(1), strict=True)
    ]


def test_random_values_respect_ranges_masks_and_types() -> None:
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "other")
    specs = [TensorSpec(name, "INT64", (50,)) for name in names]
    from drumfire.sut.data.options import Values

    known = {"input_ids": Values(0, 9), "other": Values(0, 3)}
    description, (ids, mask, types, positions, other) = drawn(*specs, known=known, range=("other=-2..-1",))
    assert set(ids.tolist()) == set(range(10))
    assert (mask == 1).all()
    assert (types == 0).all()
    assert positions.tolist() == list(range(50))
    assert set(other.tolist()) == {-2, -1}
    assert description == (
        "128 random samples, seed 1: input_ids 0..9, attention_mask ones, token_type_ids zeros, "
        "position_ids counting from 0, other -2..-1"
    )


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
def test_random_floats_in_a_range(datatype: str) -> None:
    _, (x, mask) = drawn(TensorSpec("x", datatype, (400,)), TensorSpec("mask", datatype, (2,)), range=("x=2..4",))
    if datatype == "BF16":
        x, mask = ((values.astype(np.uint32) << 16).view(np.float32) for values in (x, mask))
    assert 2 <= x.min() < 2.1 < 3.9 < x.max() <= 4
    assert mask.tolist() == [1, 1]


def test_the_description_says_the_lengths() -> None:
    made = open_inputs(None, choose(model(IDS), InputOptions(dim=("s=8..16",)), ""))
    assert made.description == "128 random samples, seed 1: ids 0..127, s 8..16"
    there = open_inputs("zero", choose(model(replace(IDS, dims=())), InputOptions(shape=("ids=8..16",))))
    assert there.description == "128 samples of zeros: ids 8..16"
    lengths = [made.shapes(index)[0][0] for index in range(50)]
    assert lengths == [len(ids(made.sample(index))) for index in range(50)]
    assert len(set(lengths)) > 5
