"""The architectures are the published ones: parameter counts, priors, and torchvision's results where it has them."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.extra

from drumfire.sut.models.boxes import suppressed  # noqa: E402
from drumfire.sut.models.networks.mobilenet import Convolution, MobileNet  # noqa: E402
from drumfire.sut.models.networks.resnet import ResNet50  # noqa: E402
from drumfire.sut.models.networks.retinanet import RetinaNet  # noqa: E402
from drumfire.sut.models.networks.ssd import SsdMobileNet, SsdResNet34  # noqa: E402
from drumfire.sut.models.networks.yolo import N, Yolo11  # noqa: E402


def trained(network: torch.nn.Module) -> int:
    return sum(one.numel() for one in network.parameters() if one.requires_grad)


def test_parameter_counts() -> None:
    assert trained(ResNet50()) == 25_557_032
    assert trained(MobileNet()) == 4_233_001
    assert trained(RetinaNet()) == 37_060_652
    assert (trained(Yolo11()), trained(Yolo11(N))) == (25_372_144, 2_624_064)


def test_priors() -> None:
    small, large = SsdMobileNet(91).priors, SsdResNet34().priors
    assert (len(small), len(large)) == (1917, 15130)
    np.testing.assert_allclose(small[0], [0.5 / 19, 0.5 / 19, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(small[1], [0.5 / 19, 0.5 / 19, 0.2 * 2**0.5, 0.2 / 2**0.5], rtol=1e-6)
    np.testing.assert_allclose(small[-1], [0.5, 0.5, 0.95**0.5, 0.95**0.5], rtol=1e-6)
    np.testing.assert_allclose(large[0], [0.01, 0.01, 0.07, 0.07], rtol=1e-6)
    np.testing.assert_allclose(large[1], [0.03, 0.01, 0.07, 0.07], rtol=1e-6)  # x goes first
    assert int((large[:, 2] == 1).sum()) > 0  # cut to the picture


@pytest.mark.parametrize("side", [224, 225, 37, 5])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_padding_as_tensorflows_same(side: int, kernel: int, stride: int) -> None:
    layer = Convolution(1, 1, kernel, stride)
    with torch.no_grad():
        layer.conv.weight.fill_(1)
        found = layer.eval()(torch.zeros(1, 1, side, side)).shape[-1]
    assert found == -(-side // stride)
    before, after = layer._padding(side) if kernel > 1 else (0, 0)
    assert 0 <= after - before <= 1  # what is odd goes to the end


def test_ssd_mobilenet_finds_what_its_numbers_say() -> None:
    """One prior shouts a class and moves: the box that comes out is that prior's, moved."""
    network = SsdMobileNet(91, candidates=5).eval()
    offsets, logits = torch.zeros(1, 1917, 4), torch.full((1, 1917, 91), -9.0)
    logits[0, 1100, 44], offsets[0, 1100, 0] = 5.0, 1.0
    network.raw = lambda images: (offsets, logits)  # type: ignore[method-assign]
    boxes, scores, labels = network(torch.empty(0))
    x, y, width, height = network.priors[1100].tolist()
    x += 0.1 * width
    expected = np.clip([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 0, 1)
    assert labels[0, 0] == 44
    assert scores[0, 0] == pytest.approx(1 / (1 + np.exp(-5)))
    np.testing.assert_allclose(boxes[0, 0], expected, rtol=1e-5)


def test_ssd_resnet34_shapes_and_labels() -> None:
    network = SsdResNet34(candidates=50).eval()
    network.trunk = torch.nn.AvgPool2d(8)
    network.trunk.register_forward_hook(lambda module, inputs, output: output.repeat(1, 86, 1, 1)[:, :256])
    with torch.no_grad():
        boxes, scores, labels = network(torch.rand(2, 3, 1200, 1200))
    assert boxes.shape == (2, 50, 4)
    assert int(labels.min()) >= 1
    assert int(labels.max()) <= 80
    assert (scores.diff(dim=1) <= 0).all()


def test_yolo11_finds_what_its_distances_say() -> None:
    """At one cell of the second level, each side's distribution has its peak at a distance of its own."""
    network = Yolo11(N).eval()
    with torch.no_grad():
        for sides, classes in zip(network.sides, network.classes, strict=True):
            for last in (sides[-1], classes[-1]):
                last.weight.zero_()
                last.bias.zero_()
        network.sides[1][-1].bias[[1, 16 + 2, 32 + 5, 48 + 15]] = 40.0  # left, top, right, bottom, in cells
        network.classes[1][-1].bias[7] = 3.0
        found = network(torch.rand(1, 3, 64, 96))
    assert found.shape == (1, 84, 96 + 24 + 6)
    at = 96 + 1 * 6 + 2  # row 1, column 2 of 4 x 6 cells of 16 pixels
    left, top, right, bottom = (2.5 - 1) * 16, (1.5 - 2) * 16, (2.5 + 5) * 16, (1.5 + 15) * 16
    expected = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    np.testing.assert_allclose(found[0, :4, at], expected, rtol=1e-5)
    assert int(found[0, 4:, at].argmax()) == 7
    np.testing.assert_allclose(found[0, 4:, 0], 0.5)


def test_resnet50_is_torchvisions() -> None:
    pytest.importorskip("drumfire.training.operators")
    torchvision = pytest.importorskip("torchvision")
    theirs, ours = torchvision.models.resnet50().eval(), ResNet50().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_retinanet_is_torchvisions() -> None:
    pytest.importorskip("drumfire.training.operators")
    detection = pytest.importorskip("torchvision.models.detection")
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    backbone = resnet_fpn_backbone(
        backbone_name="resnext50_32x4d",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
        trainable_layers=5,
    )
    torch.manual_seed(1)
    theirs = detection.RetinaNet(backbone, 264, min_size=256, max_size=256).eval()
    with torch.no_grad():  # so that many boxes of several levels are found, doubles among them
        theirs.head.classification_head.cls_logits.weight.normal_(0, 3)
        theirs.head.regression_head.bbox_reg.weight.normal_(0, 0.3)
    ours = RetinaNet(264, 256).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(3, 256, 256)
    with torch.no_grad():
        expected = theirs([image])[0]
        boxes, scores, labels = (one[0].numpy() for one in ours(image[None]))
    likely = scores > 0.05
    boxes, scores, labels = boxes[likely], scores[likely], labels[likely]
    kept = suppressed(boxes, scores, labels, 0.5, 300)
    assert len(kept) == len(expected["boxes"]) > 20
    np.testing.assert_allclose(scores[kept], expected["scores"], rtol=1e-4)
    np.testing.assert_array_equal(labels[kept], expected["labels"])
    np.testing.assert_allclose(boxes[kept], expected["boxes"], atol=0.01)
