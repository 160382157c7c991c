"""nms and roi_align against results of torchvision's compiled ones (stored; torch 2.14.1, torchvision 0.29.1, CPU)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")


import torch  # noqa: E402

from drumfire.training import operators  # noqa: E402

STORED = np.load(Path(__file__).with_name("native_operators.npz"))


@pytest.fixture(params=["ours", "torchvision's"])
def names(request: pytest.FixtureRequest) -> object:
    """Our functions, and what torchvision calls: ours where the compiled ones do not load."""
    if request.param == "ours":
        return operators
    import torchvision  # after our operators

    return torchvision.ops


@pytest.mark.parametrize("case", range(5))
def test_nms(names: object, case: int) -> None:
    boxes, scores = (torch.from_numpy(STORED[f"nms{case}_{name}"]) for name in ("boxes", "scores"))
    kept = names.nms(boxes, scores, float(STORED[f"nms{case}_threshold"]))  # type: ignore[attr-defined]
    assert kept.tolist() == STORED[f"nms{case}_kept"].tolist()


@pytest.mark.parametrize("case", range(6))
def test_roi_align(names: object, case: int) -> None:
    """Fixed and adaptive sampling, both alignments, regions that are empty or reach beyond the picture."""

    def stored(name: str) -> np.ndarray:
        return STORED[f"roi{case}_{name}"]

    features = torch.from_numpy(stored("features")).requires_grad_()
    rois, pooled = torch.from_numpy(stored("rois")), tuple(stored("pooled").tolist())
    sampling = float(stored("scale")), int(stored("ratio")), bool(stored("aligned"))
    if names is operators:
        found = operators.roi_align(features, rois, sampling[0], *pooled, *sampling[1:])
    else:
        found = names.roi_align(features, rois, pooled, *sampling)  # type: ignore[attr-defined]
    found.backward(torch.from_numpy(stored("grad_out")))
    np.testing.assert_allclose(found.detach(), stored("out"), atol=5e-5)
    np.testing.assert_allclose(features.grad, stored("grad"), atol=1e-4)


def test_no_region_keeps_the_graph() -> None:
    features = torch.rand(2, 3, 8, 8, requires_grad=True)
    found = operators.roi_align(features, torch.zeros(0, 5), 0.25, 7, 7, 2, False)
    assert found.shape == (0, 3, 7, 7)
    found.sum().backward()
    assert features.grad is not None
    assert operators.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_half_precision_features_stay_so() -> None:
    features = torch.rand(1, 2, 8, 8).bfloat16()
    rois = torch.tensor([[0.0, 2, 2, 20, 20]])
    found = operators.roi_align(features, rois, 0.25, 2, 2, 2, False)
    assert found.dtype == torch.bfloat16
    exact = operators.roi_align(features.float(), rois, 0.25, 2, 2, 2, False)
    torch.testing.assert_close(found.float(), exact, atol=0.01, rtol=0.01)
