"""The small files behind our server and behind a real Triton: the same requests get the same answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from drumfire.sut.remote.triton_local.server import LocalTriton
from tests.support.official_clients import CLIENTS, connected, infer
from tests.support.real_server import REAL_TRITON
from tests.support.running_server import Running
from tests.support.small_files import BF16, NAMES, ON_TRITON, ONE_SAMPLE, Sample, load, real_triton, samples

pytest.importorskip("onnxruntime")
pytestmark = list(REAL_TRITON)


@pytest.fixture(scope="module")
def triton() -> Iterator[LocalTriton]:
    with real_triton() as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running(*map(load, ON_TRITON)) as running:
        yield running


def requests(name: str) -> list[Sample]:
    """Of one sample and, where the file takes them, of several; of two lengths; and with the optional input."""
    found = [
        samples(name, rows, length, seed=rows) for rows in ((1,) if name in ONE_SAMPLE else (1, 3)) for length in (3, 6)
    ]
    if name == "optional_input":
        bias = np.arange(8, dtype=np.float32)
        found += [batch | {"bias": np.stack([bias] * len(batch["input_ids"]))} for batch in found]
    return found


def shown_to_triton(batch: Sample) -> Sample:
    """It has no input of a single number, which is a row of one there."""
    return batch | {name: array[:, None] for name, array in batch.items() if array.ndim == 1}


@pytest.mark.parametrize("protocol", CLIENTS)
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_tritons(name: str, protocol: str, server: Running, triton: LocalTriton) -> None:
    if name == BF16:
        pytest.skip("Triton's Python backend has no bfloat16")
    with connected(server.addresses, protocol) as ours, connected(triton, protocol) as theirs:
        for batch in requests(name):
            found, expected = infer(ours, name, batch), infer(theirs, name, shown_to_triton(batch))
            assert len(found) == len(expected) > 0
            for one, wanted in zip(found, expected, strict=True):
                assert one.dtype == wanted.dtype
                assert (one.shape if one.ndim > 1 else (*one.shape, 1)) == wanted.shape
                if one.dtype.kind == "f":  # another build of the runtime may add in another order
                    np.testing.assert_allclose(one.reshape(wanted.shape), wanted, rtol=1e-6, atol=1e-7)
                else:
                    np.testing.assert_array_equal(one.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("protocol", CLIENTS)
@pytest.mark.parametrize("name", ON_TRITON)
def test_models_are_told_as_tritons(name: str, protocol: str, server: Running, triton: LocalTriton) -> None:
    """Names, types and shapes; a single number has the shape [-1] here, and a row of one there."""
    told = []
    for addresses in (server.addresses, triton):
        with connected(addresses, protocol) as client:
            said = client.get_model_metadata(name, **({"as_json": True} if protocol == "grpc" else {}))
            told.append(
                {
                    kind: [(one["name"], one["datatype"], [int(size) for size in one["shape"]]) for one in said[kind]]
                    for kind in ("inputs", "outputs")
                }
            )
    ours, theirs = told
    for of_kind in ours.values():
        for _, _, shape in of_kind:
            if shape == [-1]:
                shape.append(1)
    assert ours == theirs
