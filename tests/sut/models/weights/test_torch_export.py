"""An exported program is the network, for any batch size, without its batch norms."""

from pathlib import Path

import pytest

from drumfire.sut.models.minilm import MiniLM
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights import torch_export

pytestmark = pytest.mark.extra
torch = pytest.importorskip("torch")


def test_the_program_gives_what_the_network_gives(tmp_path: Path) -> None:
    from torch import nn

    class Network(nn.Module):
        """With a bias and without, a batch norm that is not alone, and one that follows no convolution."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3, padding=1, groups=2)
            self.third = nn.Conv2d(4, 4, 1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))

        def forward(self, x: object) -> object:
            x = torch.relu(self.norms[0](self.first(x)))
            x = self.norms[1](self.second(x))
            x = self.norms[2](torch.relu(x))
            y = self.third(x)
            return self.norms[3](y) + y

    torch.manual_seed(0)
    network = Network()
    for _ in range(3):  # so that the running figures are no longer 0 and 1
        network(torch.randn(8, 3, 9, 9) * 2 + 1)
    network.eval()
    torch_export.export(network, Tensors.of_one((3, 9, 9)), tmp_path / "network.pt2")
    program = torch.export.load(tmp_path / "network.pt2")
    left = [node for node in program.graph.nodes if "batch_norm" in str(node.target)]
    assert len(left) == 2
    for count in (1, 2, 5):
        batch = torch.randn(count, 3, 9, 9)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(batch), network(batch), atol=1e-5, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]


def test_sizes_that_a_model_leaves_open_are_open_in_the_program(tmp_path: Path) -> None:
    from drumfire.sut.models.networks.bert import SentenceEncoder

    network = SentenceEncoder(layers=1, width=8, heads=2, inner=8, words=50).eval()
    torch_export.export(network, MiniLM.tensors, tmp_path / "network.pt2")
    program = torch.export.load(tmp_path / "network.pt2")
    for count, length in ((1, 2), (3, 7), (2, 512)):
        batch = torch.randint(0, 50, (count, length)), torch.ones(count, length, dtype=torch.int64)
        given = (*batch, torch.zeros_like(batch[0]))
        with torch.no_grad():
            torch.testing.assert_close(program.module()(*given), network(*given))
