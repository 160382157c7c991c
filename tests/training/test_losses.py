"""The loss of a batch does not depend on how it is divided; draws follow from the sample."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")

import torch  # noqa: E402

from drumfire.training import shapes  # noqa: E402
from drumfire.training.losses import AnchorSampler, Draws, RegionSampler, loss_of_rank, seed_draws  # noqa: E402


def test_at_most_so_many_and_the_same_for_the_same_seed() -> None:
    draws = Draws()
    sampler = RegionSampler(draws, 32, 0.25)
    matched = [torch.randint(-1, 4, (500,)) for _ in range(3)] + [torch.zeros(5, dtype=torch.int64)]
    draws.seeds = [1, 2, 3, 4]
    positive, negative = sampler(matched)
    for of_image, chosen, others in zip(matched, positive, negative, strict=True):
        assert chosen.sum() <= 8
        assert chosen.sum() + others.sum() == min(32, len(of_image))
        assert (of_image[chosen.bool()] >= 1).all()
        assert (of_image[others.bool()] == 0).all()
    assert draws.counts() == (0, 32 * 3 + 5, 24)
    again, _ = sampler(matched)
    assert all(map(torch.equal, positive, again))
    draws.seeds = [9, 2, 3, 4]
    other, _ = sampler(matched)
    assert not torch.equal(other[0], positive[0])
    assert torch.equal(other[1], positive[1]), "an image's draws do not depend on its neighbours"


def test_anchors_and_regions_are_counted_apart() -> None:
    draws = Draws(seeds=[1])
    AnchorSampler(draws, 8, 0.5)([torch.tensor([1.0, 0.0, -1.0, 0.0])])
    assert draws.counts() == (3, 0, 0)


def test_parts_add_up_to_the_whole() -> None:
    """Two images together, and each alone with the totals of both."""
    torch.manual_seed(0)
    model = shapes.build(50, None, lambda _: None).train()
    draws = seed_draws(model)
    images = [torch.rand(3, 96, 96), torch.rand(3, 96, 96)]
    box, nothing = torch.tensor([[10.0, 10, 60, 60]]), torch.zeros(0, 4)
    masks = torch.zeros(1, 96, 96, dtype=torch.uint8)
    masks[:, 10:60, 10:60] = 1
    targets = [
        {"boxes": box, "labels": torch.tensor([2]), "masks": masks},
        {"boxes": nothing, "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]},
    ]

    def gradients(parts: list[list[int]]) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        outputs = []
        for part in parts:
            draws.seeds = [at + 10 for at in part]
            losses = model([images[at] for at in part], [dict(targets[at]) for at in part])
            outputs.append((losses, draws.counts()))
        totals = [sum(counts) for counts in zip(*(counts for _, counts in outputs), strict=True)]
        loss = torch.stack([loss_of_rank(losses, counts, totals) for losses, counts in outputs]).sum()
        loss.backward()
        return float(loss), torch.cat([p.grad.reshape(-1) for p in model.parameters()])

    whole, divided = gradients([[0, 1]]), gradients([[0], [1]])
    assert divided[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(divided[1], whole[1], atol=1e-5, rtol=1e-3)


def test_nothing_drawn_counts_for_nothing() -> None:
    value = torch.tensor(float("nan"), requires_grad=True)
    loss = loss_of_rank({"loss_classifier": value, "loss_mask": value}, (4, 0, 0), (8.0, 5.0, 0.0))
    loss.backward()
    assert float(loss) == 0.0
    assert float(value.grad) == 0.0
