"""A remote model's samples: what a batch of them is, apart from how they are sent."""

from __future__ import annotations

import numpy as np

from drumfire.sut.data.random_values import generated
from drumfire.sut.kserve.messages.http_client import HttpMessages
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec, as_array
from drumfire.sut.remote.samples import RemoteLibrary


def test_a_batch_has_every_input_by_its_name() -> None:
    inputs = (TensorSpec("words", "INT64", (3,)), TensorSpec("mask", "BOOL", (3,)))
    interface = ModelInterface("m", "", "", inputs, (TensorSpec("y", "FP32", (1,)),), 8)
    samples = generated(interface, kind="random")
    library = RemoteLibrary(samples, interface, HttpMessages(interface), total_count=8, performance_count=8)
    batch = library.batch(np.array([5, 2]))
    assert list(batch) == ["words", "mask"]
    for position, spec in enumerate(inputs):
        assert batch[spec.name].shape == (2, 3)
        for row, index in enumerate((5, 2)):
            tensor = samples.sample(index)[position]
            assert (batch[spec.name][row] == as_array(spec.datatype, tensor.shape, tensor.data)).all()
