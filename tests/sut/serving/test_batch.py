"""Batches put together and cut up: every byte where it belongs, copies only where they must be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.kserve.messages.exchange import Region
from drumfire.sut.kserve.messages.tensors import pack_bytes
from drumfire.sut.models.tensors import Input
from drumfire.sut.serving.batch import Gatherer, gatherers, split
from drumfire.sut.serving.request import Request, Wanted
from drumfire.sut.serving.shared_memory import SharedBytes, SystemRegions

F4 = np.dtype(np.float32)
NAMES = ("y",)


def gatherer_of(
    most: int, shape: tuple[int, ...], kind: type = np.float32, *, channels_last: bool = False, fixed: int | None = None
) -> Gatherer:
    """``shape``: of samples as they arrive; -1 for an open size."""
    taken = (*shape[1:], shape[0]) if channels_last else shape
    sizes = tuple(None if size < 0 else size for size in taken)
    return Gatherer(Input("x", sizes, np.dtype(kind), fixed, channels_moved=channels_last), most)


def requests_of(arrays: list[np.ndarray]) -> list[Request]:
    return [Request((one.tobytes(),), len(one), (one.shape[1:],), 0) for one in arrays]


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.sampled_from([(3,), (), (2, 3, 4), (3, 5, 7)]),
    st.sampled_from([np.float32, np.uint8, np.int64, np.float16]),
    st.booleans(),
    st.booleans(),
)
def test_gathered_is_concatenated(
    sizes: list[int], shape: tuple[int, ...], kind: type, channels_last: bool, is_open: bool
) -> None:
    channels_last = channels_last and len(shape) == 3
    rng = np.random.default_rng(len(sizes))
    arrays = [rng.integers(0, 100, (size, *shape)).astype(kind) for size in sizes]
    gatherer = gatherer_of(sum(sizes), (-1,) * len(shape) if is_open else shape, kind, channels_last=channels_last)
    assert gatherer.name == "x"
    for _ in range(2):  # the memory is used again
        batch = gatherer.gather(requests_of(arrays))
        wanted = np.concatenate(arrays)
        assert batch.dtype == np.dtype(kind)
        np.testing.assert_array_equal(batch, np.moveaxis(wanted, 1, -1) if channels_last else wanted)
        assert batch.flags.c_contiguous


def test_a_lone_aligned_request_is_not_copied_and_others_are() -> None:
    gatherer = gatherer_of(4, (2,))
    data = bytes(range(16))
    alone = gatherer.gather([Request((data,), 2, ((2,),), 0)])
    assert np.shares_memory(alone, np.frombuffer(data, np.uint8))
    assert not gatherer.shares(alone)
    shifted = memoryview(b"x" + data)[1:]
    unaligned = gatherer.gather([Request((shifted,), 2, ((2,),), 0)])
    assert unaligned.flags.aligned
    assert unaligned.tobytes() == data


@pytest.mark.parametrize("shape", [(2,), (1, 2, 2)])
def test_a_fixed_size_is_filled_up_and_cut_off_again(shape: tuple[int, ...]) -> None:
    gatherer = gatherer_of(4, shape, channels_last=len(shape) == 3, fixed=4)
    arrays = [np.full((1, *shape), 7, np.float32), np.full((2, *shape), 8, np.float32)]
    requests = requests_of(arrays)
    batch = gatherer.gather(requests)
    assert len(batch) == 4
    split([batch.reshape(4, -1) * 2], requests, [gatherer], 4, NAMES)
    assert np.frombuffer(requests[0].contents[0], F4).tolist() == [14.0] * arrays[0].size
    assert np.frombuffer(requests[1].contents[0], F4).tolist() == [16.0] * arrays[1].size
    (alone,) = requests_of(arrays[:1])
    batch = gatherer.gather([alone])
    split([batch.reshape(4, -1) * 2], [alone], [gatherer], len(batch), NAMES)
    assert len(alone.contents[0]) == arrays[0].nbytes


@pytest.mark.parametrize("width", [4, 50_000])
def test_outputs_stay_as_they_are_when_the_memory_is_used_again(width: int) -> None:
    """A model may give back its input, as identity does."""
    gatherer = gatherer_of(2, (-1,))
    first = requests_of([np.full((1, width), n, np.float32) for n in (1, 2)])
    split([gatherer.gather(first)], first, [gatherer], 2, NAMES)
    second = requests_of([np.full((1, width), n, np.float32) for n in (3, 4)])
    split([gatherer.gather(second)], second, [gatherer], 2, NAMES)
    for n, request in enumerate([*first, *second], 1):
        assert np.frombuffer(request.contents[0], F4).tolist() == [n] * width


def test_large_outputs_are_views() -> None:
    gatherer = gatherer_of(2, (1,))
    output = np.arange(40_000, dtype=np.float32).reshape(2, -1)
    requests = requests_of([np.zeros((1, 1), np.float32)] * 2)
    split([output], requests, [gatherer], 2, NAMES)
    assert np.shares_memory(np.frombuffer(requests[1].contents[0], F4), output)
    split([output[:, ::2]], requests, [gatherer], 2, NAMES)  # not in one piece
    assert np.frombuffer(requests[1].contents[0], F4).tolist() == output[1, ::2].tolist()


@pytest.mark.parametrize("output", [np.float32(1), np.zeros(3), np.zeros((1, 2))])
def test_outputs_of_another_number_of_rows_are_refused(output: np.ndarray) -> None:
    requests = requests_of([np.zeros((2, 1), np.float32)])
    with pytest.raises(ValueError, match="for 2 samples"):
        split([np.asarray(output)], requests, [gatherer_of(2, (1,))], 2, NAMES)


def test_outputs_without_elements() -> None:
    requests = requests_of([np.zeros((1, 1), np.float32)] * 2)
    split([np.zeros((2, 0, 4), np.float32)], requests, [gatherer_of(2, (1,))], 2, NAMES)
    assert [bytes(one.contents[0]) for one in requests] == [b"", b""]
    assert requests[0].tails == [(0, 4)]


def shared(folder: Path, content: bytes) -> Callable[[int, int], SharedBytes]:
    """Memory that the places returned are in."""
    (folder / "key").write_bytes(content)
    regions = SystemRegions(folder)
    regions.register("r", "key", 0, len(content))
    return lambda offset, size: regions.place(Region("r", offset, size))


def test_outputs_go_to_shared_memory_or_refuse_one_request_alone(tmp_path: Path) -> None:
    place = shared(tmp_path, bytes(64))
    requests = requests_of([np.zeros((1, 1), np.float32)] * 3)
    for request, (offset, size) in zip(requests, [(0, 8), (8, 4), (16, 32)], strict=True):
        request.wanted = (Wanted(0, place(offset, size)),)
    output = np.arange(6, dtype=np.float32).reshape(3, 2)
    split([output], requests, [gatherer_of(4, (1,))], 3, NAMES)
    memory = (tmp_path / "key").read_bytes()
    assert memory[:8] == output[0].tobytes()
    assert memory[8:16] == bytes(8)
    assert memory[16:24] == output[2].tobytes()
    assert requests[1].refusal is not None
    assert requests[1].refusal.status is Status.INVALID_ARGUMENT
    assert requests[0].refusal is None
    assert requests[2].refusal is None


@pytest.mark.parametrize("channels_last", [False, True])
def test_inputs_come_from_shared_memory_or_refuse_one_request_alone(tmp_path: Path, channels_last: bool) -> None:
    """The memory of the second is truncated after the request was accepted."""
    values = np.arange(36, dtype=np.float32).reshape(3, 3, 2, 2)
    place = shared(tmp_path, values.tobytes())
    requests = [Request((place(48 * row, 48),), 1, ((3, 2, 2),), 0, is_shared=True) for row in (0, 2)]
    requests.insert(1, Request((values[1].tobytes(),), 1, ((3, 2, 2),), 0))
    gatherer = gatherer_of(4, (3, 2, 2), channels_last=channels_last)
    right = values[[0, 1, 2]]
    np.testing.assert_array_equal(gatherer.gather(requests), np.moveaxis(right, 1, -1) if channels_last else right)
    np.testing.assert_array_equal(
        gatherer.gather(requests[:1]), np.moveaxis(right[:1], 1, -1) if channels_last else right[:1]
    )
    assert not any(request.refusal for request in requests)
    os.truncate(tmp_path / "key", 50)
    found = gatherer.gather(requests)
    np.testing.assert_array_equal(found[:2], np.moveaxis(right[:2], 1, -1) if channels_last else right[:2])
    assert [request.refusal is not None for request in requests] == [False, False, True]
    requests[2].wanted = (Wanted(0, place(0, 4)),)
    split([np.ones((3, 1), np.float32)], requests, [gatherer], 3, NAMES)  # a refused request's memory is left alone
    assert (tmp_path / "key").read_bytes() == values.tobytes()[:50]


def test_each_input_is_joined_by_its_own() -> None:
    takes = [Input("ids", (None,), np.dtype(np.int64)), Input("flag", (), np.dtype(np.bool_))]
    ids, flag = gatherers(takes, 4)
    arrays = [(np.arange(n * 3).reshape(n, 3), np.arange(n) % 2 == 0) for n in (1, 2)]
    requests = [Request([one.tobytes() for one in pair], len(pair[0]), ((3,), ()), 0) for pair in arrays]
    for gatherer, parts in ((ids, [one for one, _ in arrays]), (flag, [one for _, one in arrays])):
        np.testing.assert_array_equal(gatherer.gather(requests), np.concatenate(parts))
        np.testing.assert_array_equal(gatherer.gather(requests[1:]), parts[1])
    assert [one.name for one in (ids, flag)] == ["ids", "flag"]


@pytest.mark.parametrize("fixed", [None, 4])
def test_texts_become_arrays_of_bytes_and_go_back_each_to_its_request(tmp_path: Path, fixed: int | None) -> None:
    texts = [[b"a", b""], [b"\xff\xfe", b"dd"], [b"\0", "\u00f6".encode()]]
    contents = [pack_bytes(one) for one in texts]
    place = shared(tmp_path, contents[2])
    requests = [Request((contents[0] + contents[1],), 2, ((2,),), 0)]
    requests.append(Request((place(0, len(contents[2])),), 1, ((2,),), 0, is_shared=True))
    (gatherer,) = gatherers([Input("x", (2,), np.dtype(object), fixed)], 4)
    batch = gatherer.gather(requests)
    assert batch[:3].tolist() == texts
    assert batch[3:].tolist() == [[b"", b""]] * (0 if fixed is None else 1)
    split([batch, np.char.str_len(batch.astype("S")).astype(np.int32)], requests, [gatherer], len(batch), ("y", "n"))
    assert [request.contents[0] for request in requests] == [contents[0] + contents[1], contents[2]]
    assert requests[0].tails == [(2,), (2,)]
    assert len(requests[1].contents[1]) == 8
    (tmp_path / "key").write_bytes(b"\xff" * len(contents[2]))
    assert gatherer.gather(requests)[:2].tolist() == texts[:2]
    assert requests[0].refusal is None
    assert requests[1].refusal is not None
    assert "input 'x' in shared memory: a BYTES tensor ends within an element" in requests[1].refusal.text


def test_another_number_of_outputs_is_refused() -> None:
    requests = requests_of([np.zeros((2, 1), np.float32)])
    with pytest.raises(ValueError, match="2 outputs in place of y"):
        split([np.zeros((2, 1))] * 2, requests, [gatherer_of(2, (1,))], 2, NAMES)
