"""Weights out of our ONNX files make the network that they came from, and no other."""

from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.models import digits
from drumfire.sut.models.weights import onnx_state

pytestmark = pytest.mark.extra
torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from drumfire.sut.models.networks.digits import network  # noqa: E402


def test_the_network_gives_what_its_file_gives() -> None:
    filled = network().eval()
    onnx_state.fill(filled, digits.WEIGHTS)
    samples = digits.read().inputs[:50]
    with torch.no_grad():
        given = filled(torch.from_numpy(samples)).numpy()
    session = onnxruntime.InferenceSession(digits.WEIGHTS, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(given, session.run(None, {"input": samples})[0], atol=1e-5)


def test_the_file_of_another_network_is_refused(tmp_path: Path) -> None:
    other = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, bias=False), torch.nn.BatchNorm2d(8))
    with pytest.raises(ValueError, match="another network"):
        onnx_state.fill(other, digits.WEIGHTS)
