"""Samples are what the model declared, the same in every run, and whatever is not is refused in one line."""

import base64
import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drumfire.loadgen.system import IndexArray
from drumfire.sut.data.arrays import ArrayFolder
from drumfire.sut.data.data_set import DataSet
from drumfire.sut.data.inputs import FLOATING, InputError, Inputs
from drumfire.sut.data.json_file import JsonFile
from drumfire.sut.data.library import ArrayLibrary, NotLoadedError
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.random_values import generated
from drumfire.sut.data.sizes import Chosen, choose
from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    LEFT_OUT,
    ModelInterface,
    Tensor,
    TensorSpec,
    as_array,
    as_tensor,
    check_size,
    unpack_bytes,
)

ALL = (*sorted(DATATYPES), "BYTES")
INTEGERS = [name for name in DATATYPES if name.startswith(("INT", "UINT"))]
FLOATS = ["FP16", "FP32", "FP64"]

sides = hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)


def interface(*inputs: TensorSpec, outputs: Sequence[TensorSpec] = (), max_batch_size: int = 8) -> ModelInterface:
    return ModelInterface("m", "", "", inputs, tuple(outputs), max_batch_size)


def spec(text: str) -> TensorSpec:
    """A spec of its text, as in ``x FP32[3,-1]``."""
    name, datatype, sizes = text.replace("[", " ").rstrip("]").split(" ")
    return TensorSpec(name, datatype, tuple(int(size) for size in sizes.split(",") if size))


def array(tensor: Tensor, datatype: str) -> np.ndarray:
    return as_array(datatype, tensor.shape, tensor.data)


def refused(error: pytest.ExceptionInfo[InputError] | InputError) -> str:
    """The text of an error, which has to be one line."""
    text = str(error.value if isinstance(error, pytest.ExceptionInfo) else error)
    assert text
    assert text.isprintable()
    return text


# Generated


@given(
    specs=st.lists(st.tuples(st.sampled_from(ALL), sides), max_size=3),
    seed=st.integers(0, 2**40),
    index=st.integers(0, 40),
)
def test_random_samples_are_the_same_in_every_run(
    specs: list[tuple[str, tuple[int, ...]]], seed: int, index: int
) -> None:
    model = interface(*(TensorSpec(f"x{i}", datatype, shape) for i, (datatype, shape) in enumerate(specs)))
    few = generated(Chosen(model), kind="random", count=index + 1, seed=seed)
    many = generated(Chosen(model), kind="random", count=1000, seed=seed)
    many.sample(7)
    sample = few.sample(index)
    assert sample == many.sample(index) == few.sample(index)
    assert len(sample) == len(specs)
    for tensor, declared in zip(sample, model.inputs, strict=True):
        assert tensor.shape == declared.shape
        check_size(declared.datatype, tensor.shape, tensor.data)


def test_samples_seeds_and_inputs_differ() -> None:
    model = interface(spec("x INT64[20]"), spec("y INT64[20]"))
    one, other = (generated(Chosen(model), kind="random", seed=seed) for seed in (1, 2))
    drawn = [tensor.data for made in (one, other) for index in range(5) for tensor in made.sample(index)]
    assert len(set(drawn)) == 20
    assert (one.name, one.total_count) == ("random", 128)
    assert one.description == "128 random samples, seed 1: x 0..127, y 0..127"
    assert one.expected(0) is None


@pytest.mark.parametrize("datatype", FLOATS)
def test_random_floats_are_standard_normal(datatype: str) -> None:
    (tensor,) = generated(Chosen(interface(TensorSpec("x", datatype, (20_000,)))), kind="random").sample(3)
    values = array(tensor, datatype).astype(np.float64)
    assert np.isfinite(values).all()
    # Five standard errors: a seed is fixed, so this holds or does not.
    assert abs(values.mean()) < 5 / math.sqrt(values.size)
    assert abs(values.var() - 1) < 5 * math.sqrt(2 / values.size)


def test_random_bfloat16_are_the_float32_values_rounded() -> None:
    def drawn(datatype: str) -> np.ndarray:
        (tensor,) = generated(Chosen(interface(TensorSpec("x", datatype, (10_000,)))), kind="random").sample(3)
        return array(tensor, datatype)

    exact, bits = drawn("FP32").astype(np.float64), drawn("BF16").astype(np.int64)
    below, rounded, above = ((bits + step << 16).astype("<u4").view("<f4").astype(float) for step in (-1, 0, 1))
    error = abs(rounded - exact)
    assert (error <= abs(below - exact)).all()
    assert (error <= abs(above - exact)).all()


@pytest.mark.parametrize("datatype", INTEGERS)
def test_random_integers_are_small(datatype: str) -> None:
    (tensor,) = generated(Chosen(interface(TensorSpec("x", datatype, (20_000,)))), kind="random").sample(0)
    values = array(tensor, datatype)
    assert (values.min(), values.max()) == (0, 127)


def test_random_booleans_and_strings() -> None:
    flags, texts = generated(Chosen(interface(spec("x BOOL[1000]"), spec("y BYTES[10,100]"))), kind="random").sample(0)
    assert set(bytes(flags.data)) == {0, 1}
    assert 400 < sum(flags.data) < 600
    elements = unpack_bytes(texts.data)
    assert all(0 < len(element) < 20 and element.decode("ascii").isprintable() for element in elements)
    assert len(set(elements)) > 990


@given(st.lists(st.tuples(st.sampled_from(ALL), sides), max_size=3))
def test_zeros(specs: list[tuple[str, tuple[int, ...]]]) -> None:
    model = interface(*(TensorSpec(f"x{i}", datatype, shape) for i, (datatype, shape) in enumerate(specs)))
    made = generated(Chosen(model), kind="zero", count=3)
    for tensor, declared in zip(made.sample(2), model.inputs, strict=True):
        check_size(declared.datatype, tensor.shape, tensor.data)
        assert not any(tensor.data)
    assert (made.name, made.description, made.total_count) == ("zero", "3 samples of zeros", 3)


def test_open_sizes_have_to_be_given() -> None:
    with pytest.raises(InputError, match="--shape x=3x224x224, or give --input-data") as error:
        generated(Chosen(interface(spec("x FP32[3,-1,-1]"))), kind="random")
    refused(error)


@pytest.mark.parametrize(("count", "seed"), [(0, 1), (-1, 1), (1, -1)])
def test_no_samples_or_no_seed(count: int, seed: int) -> None:
    with pytest.raises(InputError, match="at least"):
        generated(Chosen(interface(spec("x FP32[3]"))), kind="random", count=count, seed=seed)


def test_a_sample_that_no_message_can_hold() -> None:
    with pytest.raises(InputError, match=r"37\.3 GiB a sample"):
        generated(Chosen(interface(spec("x FP32[100000,100000]"))), kind="zero")


# .npy


@given(data=st.data(), datatype=st.sampled_from(sorted(DATATYPES)), shape=sides, fortran=st.booleans())
def test_npy_files_of_any_layout(data: st.DataObject, datatype: str, shape: tuple[int, ...], fortran: bool) -> None:
    values = data.draw(hnp.arrays(DATATYPES[datatype], (data.draw(st.integers(1, 4)), *shape)))
    stored = np.asarray(
        values, values.dtype.newbyteorder(data.draw(st.sampled_from("<>"))), order="F" if fortran else "C"
    )
    declared = TensorSpec("x", datatype, tuple(data.draw(st.sampled_from([size, -1])) for size in shape))
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "x.npy"), stored)
        made = ArrayFolder(Path(folder), interface(declared))
        assert made.total_count == len(values)
        for index, row in enumerate(values):
            (tensor,) = made.sample(index)
            assert tensor.shape == shape
            assert tensor.data == row.tobytes()
            assert made.expected(index) is None


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@given(data=st.data(), shape=sides, order=st.sampled_from("<>"))
def test_npy_files_of_text(data: st.DataObject, shape: tuple[int, ...], order: str) -> None:
    values = data.draw(hnp.arrays(f"{order}U6", (2, *shape), elements=texts))
    encoded = np.char.encode(values, "utf-8")
    model = interface(TensorSpec("u", "BYTES", shape), TensorSpec("s", "BYTES", shape))
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "u.npy"), values)
        np.save(Path(folder, "s.npy"), encoded)
        made = ArrayFolder(Path(folder), model)
        for index in range(2):
            text, raw = made.sample(index)
            assert text == raw
            assert unpack_bytes(text.data) == encoded[index].reshape(-1).tolist()


def test_npy_files_of_expectations(tmp_path: Path) -> None:
    model = interface(spec("a/x FP32[2]"), outputs=[spec("y:0 INT32[]"), spec("z FP32[1]")])
    np.save(tmp_path / "a%2Fx.npy", np.float32([[1, 2], [3, 4]]))
    np.save(tmp_path / "y:0.npy", np.int32([5, 6]))
    made = ArrayFolder(tmp_path, model)
    assert made.sample(1) == (as_tensor(np.float32([3, 4]), model.inputs[0]),)
    assert made.expected(1) == {"y:0": Tensor((), b"\6\0\0\0")}
    assert (made.name, made.total_count, made.description) == (tmp_path.name, 2, f"2 samples in 2 files of {tmp_path}")


def test_a_name_that_is_an_input_and_an_output(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.float32([1]))
    made = ArrayFolder(tmp_path, interface(spec("x FP32[]"), outputs=[spec("x INT8[4]")]))
    assert made.expected(0) is None


def npy_error(folder: Path, model: ModelInterface, **arrays: np.ndarray) -> str:
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    with pytest.raises(InputError) as error:
        ArrayFolder(folder, model)
    return refused(error)


def test_npy_files_that_do_not_fit(tmp_path: Path) -> None:
    model = interface(spec("x FP32[2]"), spec("y BF16[1]"), outputs=[spec("z BYTES[]")])
    x, y = np.zeros((3, 2), np.float32), np.zeros((3, 1), np.uint16)
    assert "no .npy file, but lacks x.npy" in npy_error(tmp_path, model)
    assert "has x.npy, but lacks y.npy, the samples of y BF16[1]" in npy_error(tmp_path, model, x=x)
    assert "3 in x.npy, 2 in y.npy" in npy_error(tmp_path, model, y=y[:2])
    assert "FP32 needs numpy's float32" in npy_error(tmp_path, model, x=x.astype(np.float64), y=y)
    assert "has the shape [3,2,1]" in npy_error(tmp_path, model, x=x[:, :, None])
    assert "has the shape []" in npy_error(tmp_path, model, x=np.float32(1))
    assert "BF16 needs numpy's uint16, the upper halves" in npy_error(tmp_path, model, x=x, y=y.astype("<f4"))
    assert "a fixed-width S or U array" in npy_error(tmp_path, model, y=y, z=np.zeros(3, np.uint8))
    assert "z.npy holds Python objects" in npy_error(tmp_path, model, z=np.array(["a", "b", "c"], object))
    np.save(tmp_path / "z.npy", np.array(["a", "b", "c"]))
    assert ArrayFolder(tmp_path, model).total_count == 3
    assert "has w.npy, but may hold only x.npy, y.npy, z.npy" in npy_error(tmp_path, model, w=x)


def test_npy_files_without_samples(tmp_path: Path) -> None:
    assert "at least one, not 0 in x.npy" in npy_error(
        tmp_path, interface(spec("x FP32[2]")), x=np.zeros((0, 2), "<f4")
    )


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        ArrayFolder(tmp_path / "none", interface(spec("x FP32[2]")))


@settings(deadline=None)
@given(at=st.integers(0, 200), value=st.binary(max_size=4), length=st.integers(0, 300))
def test_a_damaged_npy_file(at: int, value: bytes, length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.npy")
        np.save(path, np.zeros((4, 2), np.float32))
        raw = bytearray(path.read_bytes())
        raw[at : at + len(value)] = value
        path.write_bytes(raw[:length])
        try:
            made = ArrayFolder(Path(folder), interface(spec("x FP32[-1]")))
        except InputError as error:
            refused(error)
        else:
            for index in range(made.total_count):
                (tensor,) = made.sample(index)
                check_size("FP32", tensor.shape, tensor.data)


def test_text_that_is_no_character(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array(["fine", "\ud800"]))
    np.save(tmp_path / "y.npy", np.array([97, 0x7FFFFFFF], "<u4").view("<U1"))
    made = ArrayFolder(tmp_path, interface(spec("x BYTES[]"), spec("y BYTES[]")))
    assert [unpack_bytes(tensor.data) for tensor in made.sample(0)] == [[b"fine"], [b"a"]]
    with pytest.raises(InputError, match=r"x.npy: sample 1") as error:
        made.sample(1)
    refused(error)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(InputError, match=r"y.npy: sample 1"):
        ArrayFolder(tmp_path, interface(spec("y BYTES[]"))).sample(1)


# JSON


def read(document: Any, model: ModelInterface) -> Inputs:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inputs.json")
        path.write_bytes(raw)
        return JsonFile(path, model)


@st.composite
def json_arrays(draw: st.DrawFn) -> tuple[TensorSpec, np.ndarray]:
    """Values that JSON can hold, as an array, with a spec that they fit; a BF16 array is of floats."""
    datatype = draw(st.sampled_from(ALL))
    shape = draw(sides)
    if datatype == "BYTES":
        values = draw(hnp.arrays(object, shape, elements=st.text(st.characters(exclude_categories=["Cs"]))))
    elif datatype in FLOATS:
        values = draw(hnp.arrays(DATATYPES[datatype], shape, elements={"allow_nan": False, "allow_infinity": False}))
    elif datatype == "BF16":
        values = (draw(hnp.arrays(np.uint16, shape, elements=st.integers(0, 0x7F7F))).astype("<u4") << 16).view("<f4")
    else:
        values = draw(hnp.arrays(DATATYPES[datatype], shape))
    declared = tuple(draw(st.sampled_from([size, -1])) for size in shape)
    return TensorSpec("x", datatype, declared), np.asarray(values)


@given(typed=json_arrays())
def test_json_forms_equal_the_array(typed: tuple[TensorSpec, np.ndarray]) -> None:
    declared, values = typed
    shape = list(values.shape)
    bits = (values.view("<u4") >> 16).astype("<u2") if declared.datatype == "BF16" else values
    wanted = as_tensor(bits, declared)
    encoded = {"b64": base64.b64encode(wanted.data).decode()}
    forms: list[Any] = [
        {"content": values.reshape(-1).tolist(), "shape": shape},
        {"content": encoded, "shape": shape},
        {**encoded, "shape": shape},
    ]
    if values.ndim:
        forms += [values.tolist(), {"content": values.tolist()}, {"content": values.tolist(), "shape": shape}]
    if -1 not in declared.shape:
        forms += [values.reshape(-1).tolist(), encoded, {"content": encoded}]
    model = interface(declared, outputs=[TensorSpec("y", declared.datatype, declared.shape)])
    data = [{"x": form} for form in forms]
    made = read({"data": data, "validation_data": [{"y": form} for form in forms[::-1]]}, model)
    assert made.total_count == len(forms)
    for index in range(len(forms)):
        assert made.sample(index) == (wanted,)
        assert made.expected(index) == {"y": wanted}


@pytest.mark.parametrize("datatype", FLOATING)
def test_json_numbers_that_are_not_finite(datatype: str) -> None:
    made = read(b'{"data": [{"x": [NaN, Infinity, -Infinity]}]}', interface(TensorSpec("x", datatype, (3,))))
    found = array(made.sample(0)[0], datatype)
    if datatype == "BF16":
        found = (found.astype("<u4") << 16).view("<f4")
    assert str(found.tolist()) == "[nan, inf, -inf]"


def with_optional() -> ModelInterface:
    return interface(spec("a FP32[1]"), TensorSpec("b", "INT8", (-1,), optional=True))


def test_samples_may_leave_an_optional_input_out(tmp_path: Path) -> None:
    made = read({"data": [{"a": [1]}, {"b": [7, 8], "a": [1]}]}, with_optional())
    one = Tensor((1,), b"\0\0\x80\x3f")
    assert [made.sample(index) for index in (0, 1)] == [(one, LEFT_OUT), (one, Tensor((2,), b"\7\x08"))]
    with pytest.raises(InputError, match=r"data\[0\] lacks a: .* a FP32\[1\], b INT8\[-1\] \(optional\)"):
        read({"data": [{"b": [1]}]}, with_optional())
    with pytest.raises(InputError, match=r"data\[0\] lacks b"):
        read({"data": [{}]}, interface(TensorSpec("b", "INT8", (1,), optional=True)))
    np.save(tmp_path / "a.npy", np.float32([[1]]))
    assert ArrayFolder(tmp_path, with_optional()).sample(0) == (one, LEFT_OUT)
    np.save(tmp_path / "b.npy", np.int8([[7]]))
    assert ArrayFolder(tmp_path, with_optional()).sample(0) == (one, Tensor((1,), b"\7"))


@pytest.mark.parametrize("kind", ["random", "zero"])
def test_drawn_samples_have_the_optional_inputs_that_are_chosen(kind: Any) -> None:
    assert generated(Chosen(with_optional()), kind=kind).sample(3)[1] == LEFT_OUT
    chosen = generated(choose(with_optional(), InputOptions(shape=("b=2",))), kind=kind)
    assert chosen.sample(3)[1].shape == (2,)
    with pytest.raises(InputError, match="all inputs are optional: choose"):
        generated(Chosen(interface(TensorSpec("b", "INT8", (1,), optional=True))), kind=kind)


def test_a_data_set_without_an_optional_input() -> None:
    digits_and_more = interface(spec("pixels FP32[1,8,8]"), TensorSpec("b", "INT8", (1,), optional=True))
    sample = DataSet(digits(), digits_and_more).sample(0)
    assert (sample[0].shape, sample[1]) == ((1, 8, 8), LEFT_OUT)


def test_json_of_several_tensors() -> None:
    model = interface(spec("a INT32[2]"), spec("b BYTES[-1]"), outputs=[spec("y FP32[1]"), spec("z FP32[1]")])
    made = read(
        {
            "data": [{"b": ["é", ""], "a": [1, 2]}, {"a": [3, 4], "b": ["x"], "model": "m"}],
            "validation_data": [{}, {"z": [1]}],
        },
        model,
    )
    assert made.sample(0) == (Tensor((2,), b"\1\0\0\0\2\0\0\0"), Tensor((2,), b"\2\0\0\0\xc3\xa9" + bytes(4)))
    assert made.sample(1)[1] == Tensor((1,), b"\1\0\0\0x")
    assert made.expected(0) is None
    assert made.expected(1) == {"z": Tensor((1,), b"\0\0\x80\x3f")}
    assert made.name == "inputs"
    assert made.description.startswith("2 samples of ")


@pytest.mark.parametrize(
    ("number", "bits"),
    [
        (1.0, 0x3F80),
        (1 + 2**-8, 0x3F80),  # a tie, to even
        (1 + 3 * 2**-8, 0x3F82),
        (1 + 2**-8 + 2**-20, 0x3F81),
        (-0.0, 0x8000),
        (3.3895314e38, 0x7F7F),
    ],
)
def test_json_numbers_are_rounded_to_bfloat16(number: float, bits: int) -> None:
    made = read({"data": [{"x": [number]}]}, interface(spec("x BF16[1]")))
    assert made.sample(0)[0].data == bits.to_bytes(2, "little")


def test_the_limits_of_the_datatypes_can_be_written() -> None:
    for datatype in INTEGERS:
        limits = np.iinfo(DATATYPES[datatype])
        made = read({"data": [{"x": [int(limits.min), int(limits.max)]}]}, interface(TensorSpec("x", datatype, (2,))))
        assert array(made.sample(0)[0], datatype).tolist() == [limits.min, limits.max]
    made = read(b'{"data": [{"x": [3.4028235e38]}]}', interface(spec("x FP32[1]")))
    assert array(made.sample(0)[0], "FP32")[0] == np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("datatype", "written"),
    [
        ("INT8", "128"),
        ("UINT8", "-1"),
        ("UINT64", str(2**64)),
        ("INT64", str(-(2**63) - 1)),
        ("INT32", "1.0"),
        ("INT32", "true"),
        ("INT32", '"1"'),
        ("INT32", "null"),
        ("INT32", "NaN"),
        ("BOOL", "2"),
        ("BOOL", "0.0"),
        ("FP16", "65520"),
        ("FP32", "1e39"),
        ("FP64", "1e999"),
        ("FP64", "1" + "0" * 400),
        ("BF16", "3.4e38"),
        ("FP32", "-1e999"),
        ("FP32", "true"),
        ("FP32", "{}"),
        ("FP32", "[0]"),
        ("BYTES", "1"),
        ("BYTES", r'"\ud800"'),
    ],
)
def test_elements_that_are_not_of_the_datatype(datatype: str, written: str) -> None:
    fine = '""' if datatype == "BYTES" else "0"
    document = f'{{"data": [{{"x": [{fine}, {fine}]}}, {{"x": [{fine}, {written}]}}]}}'
    with pytest.raises(InputError) as error:
        read(document.encode(), interface(TensorSpec("x", datatype, (2,))))
    text = refused(error)
    assert "data[1] x: element 1 is " in text
    assert text.endswith(f"which is not a valid {datatype}")


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([], "must be an object with"),
        ({}, "must be an object with"),
        ({"data": [{"x": [1, 2]}], "validation_dat": []}, "nothing else"),
        ({"data": {}}, "data must be a list"),
        ({"data": []}, "data has 0 entries"),
        ({"data": [[{"x": [1, 2]}]]}, "data[0] is a list, the steps of a sequence"),
        ({"data": [{"x": [1, 2]}, 3]}, "data[1] must be an object of tensors, not 3"),
        ({"data": [{"x": [1, 2], "w": [1]}]}, "data[0]: 'w' is not one of x"),
        ({"data": [{"x": [1, 2]}, {}]}, "data[1] lacks x: the model m takes x INT8[2]"),
        ({"data": [{"x": None}]}, "data[0] x: use a list of elements"),
        ({"data": [{"x": 1}]}, "data[0] x: 1 element, but the shape [2] has 2"),
        ({"data": [{"x": [1, 2, 3]}]}, "the shape [3] does not fit x INT8[2]"),
        ({"data": [{"x": [[1], [2]]}]}, "the shape [2, 1] does not fit x INT8[2]"),
        ({"data": [{"x": [[1], 2]}]}, "nested lists differ in length"),
        ({"data": [{"x": {"content": [1], "shape": [2]}}]}, "1 element, but the shape [2] has 2"),
        ({"data": [{"x": {"content": [[1], [2]], "shape": [2]}}]}, "nested as [2,1], but the shape is [2]"),
        ({"data": [{"x": {"content": [1, 2], "shape": 2}}]}, "list of integers"),
        ({"data": [{"x": {"content": [1, 2], "shape": [2.0]}}]}, "list of integers"),
        ({"data": [{"x": {"content": [1, 2], "shape": [True, 2]}}]}, "list of integers"),
        ({"data": [{"x": {"shape": [2]}}]}, 'either "content" or "b64"'),
        ({"data": [{"x": {"content": [1, 2], "b64": "AAA="}}]}, 'either "content" or "b64"'),
        ({"data": [{"x": {"content": [1, 2], "parameters": {}}}]}, 'either "content" or "b64"'),
        ({"data": [{"x": {"content": {"b64": 1}}}]}, "use a list of elements"),
        ({"data": [{"x": {"b64": "AAA"}}]}, "b64 is not Base64"),
        ({"data": [{"x": {"b64": "AAé="}}]}, "b64 is not Base64"),
        ({"data": [{"x": {"b64": "A*AA="}}]}, "b64 is not Base64"),
        ({"data": [{"x": {"b64": "AAAA"}}]}, "data[0] x: 3 bytes; a INT8 tensor"),
        ({"data": [{"x": [1, 2]}], "validation_data": []}, "data has 1 entries and validation_data 0"),
        ({"data": [{"x": [1, 2]}], "validation_data": [[]]}, "validation_data[0] is a list"),
        ({"data": [{"x": [1, 2]}], "validation_data": [{"x": [1, 2]}]}, "validation_data[0]: 'x' is not one of y, z"),
        (
            {"data": [{"x": [1, 2]}], "validation_data": [{"y": [1, 2]}]},
            'y FP32[-1,2] has open sizes: write {"content"',
        ),
        ({"data": [{"x": [1, 2]}], "validation_data": [{"z": {"b64": "AQAAAA=="}}]}, "ends within an element"),
    ],
)
def test_documents_that_do_not_fit(document: Any, why: str) -> None:
    model = interface(spec("x INT8[2]"), outputs=[spec("y FP32[-1,2]"), spec("z BYTES[1]")])
    with pytest.raises(InputError) as error:
        read(document, model)
    text = refused(error)
    assert why in text
    assert "inputs.json" in text


def test_several_elements_for_what_is_one_a_sample() -> None:
    with pytest.raises(InputError) as error:
        read({"data": [{"x": [1, 2, 3, 4]}]}, interface(TensorSpec("x", "FP32", ())))
    text = "data[0] x: 4 elements, but x FP32[] has one a sample (the first size in a file is the batch)"
    assert refused(error).endswith(text)


@pytest.mark.parametrize("shape", [(1,), (-1,), (), (1, -1)], ids=str)
def test_a_single_element_needs_no_list(shape: tuple[int, ...]) -> None:
    model = interface(TensorSpec("text", "BYTES", shape), TensorSpec("x", "FP32", shape))
    document = {"data": [{"text": "hello world", "x": 2}, {"text": {"content": "è"}, "x": 0.5}]}
    made = read(document, model)
    for index, (text, x) in enumerate([("hello world", 2), ("è", 0.5)]):
        words, number = made.sample(index)
        assert words.shape == number.shape == tuple(map(abs, shape))
        assert unpack_bytes(words.data) == [text.encode()]
        assert np.frombuffer(number.data, "<f4") == x
    with pytest.raises(InputError, match="text: element 0 is 7, which is not a valid BYTES"):
        read({"data": [{"text": 7, "x": 1}]}, model)
    with pytest.raises(InputError, match="x: element 0 is 'a', which is not a valid FP32"):
        read({"data": [{"text": "", "x": "a"}]}, model)


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        ([[1, 2], [3], [4, 5, 6]], "nested lists differ in length"),
        ([1, 2, 3, 4], "has open sizes"),
        ({"b64": "AQI="}, "has open sizes"),
        ([], "has open sizes"),
        ([[], []], "the shape [2, 0] does not fit x INT8[-1,-1]"),
        ({"content": [], "shape": [0, 3]}, "the shape [0, 3] does not fit x INT8[-1,-1]"),
        ({"b64": "", "shape": [-1, 0]}, "the shape [-1, 0] does not fit x INT8[-1,-1]"),
        ({"content": [1], "shape": [2**70, 1]}, "1 element, but the shape"),
    ],
)
def test_contents_that_do_not_settle_an_open_shape(contents: Any, why: str) -> None:
    with pytest.raises(InputError) as error:
        read({"data": [{"x": contents}]}, interface(spec("x INT8[-1,-1]")))
    assert why in refused(error)


def test_base64_may_be_broken_into_lines() -> None:
    raw = bytes(range(100))
    made = read({"data": [{"x": {"b64": base64.encodebytes(raw).decode()}}]}, interface(spec("x UINT8[100]")))
    assert made.sample(0) == (Tensor((100,), raw),)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "line 1 column 1"),
        (b'{"data":\n [1,]}', "line 2 column "),
        (b'{"data": "\xff"}', "is not JSON: byte 10 is not utf-8"),
        (b"[" * 100_000, "nested too deep"),
        (b"9" * 5000, "too many digits"),
    ],
)
def test_files_that_are_not_json(raw: bytes, why: str) -> None:
    with pytest.raises(InputError) as error:
        read(raw, interface(spec("x INT8[2]")))
    assert why in refused(error)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: there is no such file"):
        JsonFile(tmp_path / "none.json", interface(spec("x INT8[2]")))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from([0, 1, "AAAA"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["content", "b64", "shape", "x", "y", ""]), inner)
    ),
    max_leaves=12,
)
documents = json_values | st.fixed_dictionaries(
    {"data": json_values | st.lists(st.fixed_dictionaries({"x": json_values}), min_size=1, max_size=2)},
    optional={"validation_data": json_values | st.lists(st.fixed_dictionaries({"y": json_values}), max_size=2)},
)


@settings(max_examples=400)
@given(document=documents, datatype=st.sampled_from(ALL), shape=st.lists(st.integers(-1, 4), max_size=3))
def test_any_json_is_samples_or_an_input_error(document: Any, datatype: str, shape: list[int]) -> None:
    declared = TensorSpec("x", datatype, tuple(shape))
    answered = TensorSpec("y", datatype, tuple(shape))
    try:
        made = read(document, interface(declared, outputs=[answered]))
    except InputError as error:
        refused(error)
    else:
        for index in range(made.total_count):
            for tensor in (*made.sample(index), *(made.expected(index) or {}).values()):
                assert declared.fits(tensor.shape)
                check_size(datatype, tensor.shape, tensor.data)


@given(st.binary(max_size=40))
def test_any_file_is_json_or_an_input_error(raw: bytes) -> None:
    with pytest.raises(InputError) as error:
        read(raw, interface(spec("x INT8[2]")))
    refused(error)


# A data set

PIXELS = np.random.default_rng(1).random((6, 1, 8, 8), np.float32)


def digits(samples: np.ndarray = PIXELS) -> ArrayLibrary:
    return ArrayLibrary("digits", lambda indices: samples[indices], len(samples), 2)


@pytest.mark.parametrize(
    ("declared", "max_batch_size", "shape"),
    [
        ("serving:0 FP32[1,8,8]", 8, (1, 8, 8)),
        ("x FP32[-1,-1,-1]", 8, (1, 8, 8)),
        ("x FP32[1,8,8]", 0, (1, 8, 8)),
        ("x FP32[-1,1,8,8]", 0, (1, 1, 8, 8)),
        ("x FP32[1,1,8,8]", 0, (1, 1, 8, 8)),
    ],
)
def test_samples_of_a_data_set(declared: str, max_batch_size: int, shape: tuple[int, ...]) -> None:
    made = DataSet(digits(), interface(spec(declared), max_batch_size=max_batch_size))
    assert (made.name, made.total_count) == ("digits", 6)
    for index in (5, 0, 5):
        assert made.sample(index) == (Tensor(shape, PIXELS[index].tobytes()),)
        assert made.expected(index) is None


def test_samples_of_a_big_endian_data_set() -> None:
    made = DataSet(digits(PIXELS.astype(">f4")), interface(spec("x FP32[1,8,8]")))
    assert made.sample(2)[0].data == PIXELS[2].tobytes()


LENGTHS = np.arange(6)


def pixels_and_lengths() -> ArrayLibrary:
    return ArrayLibrary("two", lambda indices: {"pixels": PIXELS[indices], "length": LENGTHS[indices]}, 6, 2)


@pytest.mark.parametrize("order", [1, -1])
def test_samples_of_several_arrays_go_to_the_inputs_of_their_names(order: int) -> None:
    made = DataSet(pixels_and_lengths(), interface(*map(spec, ["length INT64[]", "pixels FP32[1,8,8]"][::order])))
    tensors = [Tensor((), LENGTHS[4].tobytes()), Tensor((1, 8, 8), PIXELS[4].tobytes())]
    assert made.sample(4) == tuple(tensors[::order])


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (["pixels FP32[1,8,8]"], ", which fit inputs of these 2 names, but the model m takes pixels FP32[1,8,8]"),
        (["pixels FP32[1,8,8]", "size INT64[]"], ", which fit inputs of these 2 names, but the model m takes "
         "pixels FP32[1,8,8], size INT64[]"),
        (["pixels FP32[1,8,8]", "length INT32[]"], ", but the model takes length INT32[]"),
    ],
)  # fmt: skip
def test_several_arrays_that_do_not_fit(inputs: list[str], why: str) -> None:
    with pytest.raises(InputError) as error:
        DataSet(pixels_and_lengths(), interface(*map(spec, inputs)))
    assert refused(error) == "two has samples of pixels float32 [1,8,8], length int64 []" + why


def test_a_data_set_whose_library_returns_bare_arrays() -> None:
    class Own:
        name, total_count, performance_count = "own", 6, 2

        def load(self, indices: np.ndarray) -> None:
            pass

        def unload(self, indices: np.ndarray) -> None:
            pass

        def batch(self, indices: np.ndarray) -> np.ndarray:
            return PIXELS[indices]

    made = DataSet(Own(), interface(spec("anything FP32[1,8,8]")))
    assert made.sample(3) == (Tensor((1, 8, 8), PIXELS[3].tobytes()),)


def test_a_data_set_is_let_go_of() -> None:
    library = digits()
    made = DataSet(library, interface(spec("x FP32[1,8,8]")))
    made.sample(3)
    with pytest.raises(NotLoadedError):
        library.batch(np.array([3]))


def test_only_the_samples_asked_for_are_read() -> None:
    seen: list[int] = []

    def reading(indices: IndexArray) -> np.ndarray:
        seen.extend(indices.tolist())
        return PIXELS[indices]

    made = DataSet(ArrayLibrary("digits", reading, 6, 2), interface(spec("x FP32[1,8,8]")))
    made.sample(4)
    assert seen == [0, 4]


@pytest.mark.parametrize(
    ("inputs", "max_batch_size", "why"),
    [
        (["x FP32[3,224,224]"], 8, ", but the model takes x FP32[3,224,224]"),
        (["x FP32[1,1,8,8]"], 8, ", but the model takes x FP32[1,1,8,8]"),
        (["x FP64[1,8,8]"], 8, ", but the model takes x FP64[1,8,8]"),
        (["x BYTES[1,8,8]"], 8, ", but the model takes x BYTES[1,8,8]"),
        (["x FP32[1,8,8]", "y FP32[1]"], 8, ", which fit one input, but the model m takes x FP32[1,8,8], y FP32[1]"),
        ([], 8, ", which fit one input, but the model m takes nothing"),
    ],
)
def test_a_data_set_that_does_not_fit(inputs: list[str], max_batch_size: int, why: str) -> None:
    with pytest.raises(InputError) as error:
        DataSet(digits(), interface(*map(spec, inputs), max_batch_size=max_batch_size))
    assert refused(error) == "digits has samples of float32 [1,8,8]" + why


def test_whole_numbers_are_no_bfloat16() -> None:
    with pytest.raises(InputError, match="BF16"):
        DataSet(digits(PIXELS.astype(np.uint16)), interface(spec("x BF16[1,8,8]")))


@pytest.mark.parametrize("name", ["x.npy", "data.json"])
def test_a_pipe_in_place_of_a_file_is_refused_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    model = interface(spec("x FP32[2]"))
    with pytest.raises(InputError, match="cannot be read: it is a pipe, not a file"):
        ArrayFolder(tmp_path, model) if name == "x.npy" else JsonFile(tmp_path / name, model)
