"""Contents and arrays are two forms of one thing, and what is not whole is refused."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drumfire.sut.kserve.messages.tensors import (
    DATATYPES,
    MOST_ELEMENTS_OF_BYTES,
    TensorError,
    TensorSpec,
    as_array,
    as_tensor,
    check_size,
    check_tensor,
    count_elements,
    from_json_values,
    pack_bytes,
    to_json_values,
    unpack_bytes,
)

shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
elements = st.lists(st.binary(max_size=20), max_size=20)


@st.composite
def typed_arrays(draw: st.DrawFn) -> tuple[str, np.ndarray]:
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    array = draw(hnp.arrays(DATATYPES[datatype], draw(shapes)))
    return datatype, np.asfortranarray(array) if draw(st.booleans()) else array


@given(typed_arrays())
def test_an_array_comes_back_from_its_contents(typed: tuple[str, np.ndarray]) -> None:
    datatype, array = typed
    tensor = as_tensor(array, TensorSpec("x", datatype, (-1,) * array.ndim))
    assert tensor.shape == array.shape
    assert len(tensor.data) == array.size * array.itemsize
    back = as_array(datatype, tensor.shape, memoryview(tensor.data))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()  # bits, so that a NaN is itself


@pytest.mark.parametrize(
    ("datatype", "value", "contents"),
    [
        ("BOOL", True, b"\1"),
        ("UINT16", 0x1234, b"\x34\x12"),
        ("INT32", -2, b"\xfe\xff\xff\xff"),
        ("UINT64", 1, b"\1" + bytes(7)),
        ("FP16", 1.0, b"\x00\x3c"),
        ("BF16", 0x3F80, b"\x80\x3f"),
        ("FP32", 1.0, b"\x00\x00\x80\x3f"),
        ("FP64", -2.0, bytes(7) + b"\xc0"),
    ],
)
def test_contents_are_little_endian(datatype: str, value: Any, contents: bytes) -> None:
    array = np.array([value], DATATYPES[datatype])
    assert as_tensor(array, TensorSpec("x", datatype, (1,))).data == contents


def test_contents_are_row_major() -> None:
    array = np.array([[1, 2], [3, 4]], np.uint8, order="F")
    assert as_tensor(array, TensorSpec("x", "UINT8", (2, 2))).data == b"\1\2\3\4"


@given(elements)
def test_elements_come_back_from_a_bytes_tensor(raw: list[bytes]) -> None:
    packed = pack_bytes(raw)
    assert unpack_bytes(packed) == raw
    assert unpack_bytes(memoryview(packed)) == raw
    back = as_array("BYTES", (len(raw), 1), packed)
    assert back.dtype == object
    assert back.tolist() == [[element] for element in raw]


@given(st.lists(st.text(), max_size=10))
def test_text_is_packed_as_utf8(text: list[str]) -> None:
    assert [element.decode() for element in unpack_bytes(pack_bytes(text))] == text


def test_the_layout_of_a_bytes_tensor() -> None:
    assert pack_bytes(["ab", b"", b"\0"]) == b"\2\0\0\0ab" + bytes(4) + b"\1\0\0\0\0"


@given(hnp.arrays(object, shapes, elements=st.binary(max_size=9)))
def test_bytes_arrays_of_any_shape(array: np.ndarray) -> None:
    tensor = as_tensor(array, TensorSpec("x", "BYTES", (-1,) * array.ndim))
    back = as_array("BYTES", tensor.shape, tensor.data)
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


@given(raw=st.lists(st.binary(max_size=20), min_size=1, max_size=20), data=st.data())
def test_a_bytes_tensor_that_is_cut_is_never_read_as_whole(raw: list[bytes], data: st.DataObject) -> None:
    packed = pack_bytes(raw)
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(TensorError):
        check_size("BYTES", (len(raw),), cut)


@given(st.binary(max_size=60))
def test_any_bytes_are_either_elements_or_refused(data: bytes) -> None:
    try:
        found = unpack_bytes(data)
    except TensorError:
        return
    assert pack_bytes(found) == data


@given(
    datatype=st.sampled_from(sorted(DATATYPES)),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    size=st.integers(0, 300),
)
def test_check_size_wants_exactly_the_elements(datatype: str, shape: tuple[int, ...], size: int) -> None:
    whole = np.zeros(shape, DATATYPES[datatype]).nbytes
    check_size(datatype, shape, bytes(whole))
    if size != whole:
        with pytest.raises(TensorError, match=f"{size} bytes; a {datatype} tensor"):
            check_size(datatype, shape, bytes(size))


@given(raw=elements, count=st.integers(0, 20))
def test_check_size_counts_bytes_elements(raw: list[bytes], count: int) -> None:
    packed = pack_bytes(raw)
    check_size("BYTES", (len(raw),), packed)
    if count != len(raw):
        with pytest.raises(TensorError, match=f"{len(raw)} elements; a BYTES tensor"):
            check_size("BYTES", (count,), packed)


@given(declared=st.lists(st.integers(-1, 3), max_size=4), shape=st.lists(st.integers(0, 3), max_size=4))
def test_a_shape_fits_where_only_open_sizes_differ(declared: list[int], shape: list[int]) -> None:
    filled = [size if asked == -1 else asked for asked, size in zip(declared, shape, strict=False)]
    fits = TensorSpec("x", "FP32", tuple(declared)).fits(tuple(shape))
    assert fits == (len(declared) == len(shape) and filled == shape)


@given(typed=typed_arrays(), other=st.sampled_from(sorted(DATATYPES)))
def test_another_datatype_is_refused(typed: tuple[str, np.ndarray], other: str) -> None:
    _, array = typed
    spec = TensorSpec("x", other, array.shape)
    if array.dtype == DATATYPES[other]:
        assert as_tensor(array, spec).shape == array.shape
    else:
        with pytest.raises(TensorError, match=f"received {array.dtype}; it needs {DATATYPES[other]}"):
            as_tensor(array, spec)


def test_another_shape_is_refused() -> None:
    with pytest.raises(TensorError, match=r"x FP32\[2,-1\] received the shape \[3,2\]"):
        as_tensor(np.zeros((3, 2), np.float32), TensorSpec("x", "FP32", (2, -1)))


def test_an_unknown_datatype_is_refused() -> None:
    with pytest.raises(TensorError, match="unknown datatype 'FP8'"):
        TensorSpec("x", "FP8", (1,))


@given(st.lists(st.integers(0, 2**63 - 1), max_size=40))
def test_shapes_have_as_many_elements_as_they_say_or_are_refused(shape: list[int]) -> None:
    right = extent = 1
    for size in shape:
        right *= size
        extent *= max(size, 1)
    if len(shape) <= 32 and extent < 2**60:
        assert count_elements(shape) == right
    else:
        with pytest.raises(TensorError, match=r"dimensions|more than memory"):
            count_elements(shape)


@pytest.mark.parametrize("shape", [(0, 2**60), (2**62, 0), (2**40, 0, 2**40)])
def test_an_empty_tensor_of_a_shape_that_no_array_has_is_refused(shape: tuple[int, ...]) -> None:
    for datatype in ("FP64", "BYTES"):
        with pytest.raises(TensorError, match="more than memory"):
            as_array(datatype, shape, b"")


def test_a_bytes_tensor_of_too_many_elements_is_not_looked_through() -> None:
    count = MOST_ELEMENTS_OF_BYTES + 1
    with pytest.raises(TensorError, match=f"{count} elements; at most {MOST_ELEMENTS_OF_BYTES} are accepted"):
        check_size("BYTES", (count,), bytes(4 * count))
    with pytest.raises(TensorError, match="elements; a BYTES tensor of shape"):
        check_size("BYTES", (3,), bytes(4 * count))


def test_an_error_names_the_tensor() -> None:
    check_tensor("input 'x'", "FP32", (2,), bytes(8))
    check_tensor("input 'x'", "FP32", (2,), None)
    for datatype, shape, data in (("FP32", (2,), b""), ("FP8", (2,), None), ("FP32", (-2,), None)):
        with pytest.raises(TensorError, match=r"^input 'x': "):
            check_tensor("input 'x'", datatype, shape, data)


nested = st.recursive(st.integers(-128, 127), lambda inner: st.lists(inner, max_size=3), max_leaves=20)


@given(nested)
def test_lists_are_flat_in_the_order_of_their_values(values: Any) -> None:
    def flat(value: Any) -> list[int]:
        return [one for inner in value for one in flat(inner)] if isinstance(value, list) else [value]

    assert from_json_values(values, "INT8") == np.array(flat(values), np.int8).tobytes()


def test_lists_nested_deep_or_unevenly_are_read_in_time() -> None:
    deep: Any = 1
    for _ in range(50_000):
        deep = [deep]
    assert from_json_values([deep] + [2] * 50_000 + [[3]], "INT8") == b"\1" + b"\2" * 50_000 + b"\3"


@given(typed_arrays())
def test_what_json_tells_comes_back(typed: tuple[str, np.ndarray]) -> None:
    datatype, array = typed
    contents = as_tensor(array, TensorSpec("x", datatype, (-1,) * array.ndim)).data
    if datatype == "BF16" or not np.isfinite(array).all():
        with pytest.raises(TensorError, match="in JSON: request binary data"):
            to_json_values(datatype, array.shape, contents)
    else:
        text = orjson.dumps(to_json_values(datatype, array.shape, contents), option=orjson.OPT_SERIALIZE_NUMPY)
        assert from_json_values(orjson.loads(text), datatype) == contents


def test_json_tells_all_digits() -> None:
    values = np.array([0.1, 1 / 3], np.float32)
    text = orjson.dumps(to_json_values("FP32", (2,), values.tobytes()), option=orjson.OPT_SERIALIZE_NUMPY)
    assert json.loads(text) == values.tolist()
