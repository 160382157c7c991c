"""The reference's model: what is frozen, how it starts, and the ImageNet weights as Detectron stores them."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")

import torch  # noqa: E402

from drumfire.training import learner, maskrcnn  # noqa: E402
from drumfire.training.faults import InputError  # noqa: E402


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    told: list[str] = []
    found = maskrcnn.build(1000, None, told.append)
    assert len(told) == len(set(told)) == 21
    return found


def detectron_name(name: str) -> str | None:
    """The name in R-50.pkl of a tensor of torchvision's."""
    if "running" in name or "tracked" in name:
        return None
    kind = {"weight": "_s", "bias": "_b"}[name.rpartition(".")[2]]
    if name == "conv1.weight":
        return "conv1_w"
    if name.startswith("bn1"):
        return f"res_conv1_bn{kind}"
    layer, block, part = re.fullmatch(r"layer(\d)\.(\d)\.(.+)\.\w+", name).groups()  # type: ignore[union-attr]
    branch = {"1": "2a", "2": "2b", "3": "2c"}.get(part[-1], "") if not part.startswith("downsample") else "1"
    norm = part.startswith("bn") or part == "downsample.1"
    return f"res{int(layer) + 1}_{block}_branch{branch}{f'_bn{kind}' if norm else '_w'}"


@pytest.fixture(scope="module")
def blobs(model: torch.nn.Module) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    state = model.backbone.body.state_dict()
    found = {detectron_name(name): draws.normal(size=value.shape).astype("f4") for name, value in state.items()}
    return {name: value for name, value in found.items() if name} | {"fc1000_w": np.zeros((2, 2)), "lr": np.zeros(1)}


def test_the_given_weights_arrive_where_they_belong(blobs: dict[str, np.ndarray], tmp_path: Path) -> None:
    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    body = maskrcnn.build(1000, file, lambda _: None).backbone.body
    stored = body.state_dict()
    np.testing.assert_array_equal(stored["layer3.5.conv2.weight"], blobs["res4_5_branch2b_w"])
    np.testing.assert_array_equal(stored["layer2.0.downsample.1.bias"], blobs["res3_0_branch1_bn_b"])
    np.testing.assert_array_equal(stored["bn1.weight"], blobs["res_conv1_bn_s"])
    # Red, green, blue in 0..1 through our normalisation are blue, green, red in 0..255 through theirs.
    transform = maskrcnn.build(1000, None, lambda _: None).transform
    rgb = torch.rand(3, 7, 7)
    ours = torch.nn.functional.conv2d(transform.normalize(rgb)[None], stored["conv1.weight"])
    theirs = rgb.flip(0) * 255 - torch.tensor([102.9801, 115.9465, 122.7717])[:, None, None]
    expected = torch.nn.functional.conv2d(theirs[None], torch.from_numpy(blobs["conv1_w"]))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=0.01)
    x = torch.rand(1, 64, 4, 4)
    scale, shift = (torch.from_numpy(blobs[f"res_conv1_bn_{kind}"])[None, :, None, None] for kind in "sb")
    torch.testing.assert_close(body.bn1(x), x * scale + shift)


def test_weights_that_are_not_there_or_not_weights(blobs: dict[str, np.ndarray], tmp_path: Path) -> None:
    file = tmp_path / "R-50.pkl"
    with pytest.raises(InputError, match="prepare coco fetches them"):
        maskrcnn.build(1000, file, lambda _: None)
    lacking = {name: value for name, value in blobs.items() if name != "res4_5_branch2b_w"}
    for content in (b"", b"<html>", pickle.dumps(lacking), pickle.dumps({"conv1_w": Path("x")}), pickle.dumps([1])):
        file.write_bytes(content)
        with pytest.raises(InputError, match="does not hold the weights of ResNet-50") as error:
            maskrcnn.build(1000, file, lambda _: None)
        assert "\n" not in str(error.value)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, (f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()",)

    file = tmp_path / "R-50.pkl"
    file.write_bytes(pickle.dumps({"conv1_w": Trap()}))
    with pytest.raises(InputError, match=r"it asks for builtins\.eval"):
        maskrcnn.build(1000, file, lambda _: None)
    assert not (tmp_path / "ran").exists()


def test_what_is_frozen_and_where_it_strides(model: torch.nn.Module) -> None:
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.split(".")[2] for name in frozen} == {"conv1", "layer1"}
    assert not any("bn" in name or "downsample.1" in name for name, _ in model.named_parameters()), "norms do not learn"
    for layer in (2, 3, 4):
        block = model.get_submodule(f"backbone.body.layer{layer}.0")
        assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


def test_biases_learn_at_twice_the_rate_without_decay(model: torch.nn.Module) -> None:
    weights, biases = learner._optimizer(model).param_groups
    assert (weights["weight_decay"], weights["rate_scale"], weights["momentum"]) == (1e-4, 1.0, 0.9)
    assert (biases["weight_decay"], biases["rate_scale"]) == (0.0, 2.0)
    assert all(p.dim() == 1 for p in biases["params"])
    assert sum(len(group["params"]) for group in (weights, biases)) == sum(p.requires_grad for p in model.parameters())


def test_features_keep_their_size_without_the_weights(model: torch.nn.Module) -> None:
    with torch.no_grad():
        images = model.transform([torch.rand(3, 64, 64)])[0].tensors[:, :, :128, :128]
        found = model.backbone.body(images)
    assert all(0.01 < float(features.std()) < 100 for features in found.values())
