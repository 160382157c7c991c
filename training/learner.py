"""The model with its optimizer, which learns from one batch per step, over all ranks.

Handles samples, the loss and the gradients.  Does not depend on epochs, clocks or files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from drumfire.training.batch import Batch
from drumfire.training.faults import InputError
from drumfire.training.hyperparameters import BIAS_RATE, MOMENTUM, WEIGHT_DECAY
from drumfire.training.losses import loss_of_rank, seed_draws
from drumfire.training.ranks import Ranks
from drumfire.training.sampler import Share
from drumfire.training.task import Task

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    """A step's figures on the device.  Reading them waits for the device."""

    loss: Tensor
    """This rank's part: the sum over ranks is the loss."""
    gradient_norm: Tensor


class Learner:
    """A task's model on this rank's device."""

    def __init__(
        self,
        task: Task,
        ranks: Ranks,
        *,
        seed: int,
        precision: str,
        candidates_per_image: int,
        weights: Path | None,
        initialised: Callable[[str], None],
    ) -> None:
        """Build the model from the seed.  All ranks raise ``InputError`` if one cannot read the weights."""
        self._ranks, self._device = ranks, ranks.device
        torch.manual_seed(seed)
        with ranks.agreeing():
            model = task.build(candidates_per_image, weights, initialised)
        self._draws = seed_draws(model)
        layout = torch.channels_last if self._device.type == "cuda" else torch.contiguous_format
        self.model: nn.Module = model.to(self._device, memory_format=layout)
        self._parallel = None
        if ranks.world > 1:
            self._parallel = DistributedDataParallel(
                self.model,
                device_ids=[self._device] if self._device.type == "cuda" else None,
                forward_sync_buffers=False,  # norms are frozen or have no statistics
                gradient_as_bucket_view=True,
            )
        self._dtype = PRECISIONS[precision]
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=precision == "fp16")
        self._optimizer = _optimizer(self.model)

    def step(self, shares: Sequence[Share], batches: Iterator[Batch], rate: float, fault: str | None) -> Step:
        """Learn from one batch.  ``batches`` gives the images of each share.

        All ranks raise ``InputError`` if one has a ``fault`` or cannot read its images.
        """
        if not self.model.training:  # because train() visits every module
            self.model.train()
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        self._optimizer.zero_grad(set_to_none=True)
        parts = []
        for share in shares:
            batch = next(batches)
            # Before the forward pass, in which parallel training would wait for a rank that has stopped.
            self._ranks.totals((), batch.fault or fault)
            last = share is shares[-1]
            with self._parallel.no_sync() if self._parallel and not last else nullcontext():
                loss = self._loss(batch, share)
                # Parallel training averages gradients over ranks, but the ranks' losses are parts of a sum.
                self._scaler.scale(loss * self._ranks.world).backward()
            parts.append(loss.detach())
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return Step(torch.stack(parts).sum(), torch.zeros(()) if self._scaler.is_enabled() else norm)

    def _loss(self, batch: Batch, share: Share) -> Tensor:
        """This rank's part of the loss."""
        self._draws.seeds = batch.draws
        losses: dict[str, Tensor] = {}
        fault = None
        try:
            images, targets = batch.images(self._device), batch.targets(self._device)
            with self._autocast():
                losses = (self._parallel or self.model)(images, targets)
        except torch.OutOfMemoryError:
            fault = f"rank {self._ranks.rank} is out of GPU memory: raise --accumulation, or lower --batch-size"
        counts = self._draws.counts() if share.counted else (0, 0, 0)
        totals = self._ranks.totals(counts, fault)
        return loss_of_rank(losses, counts, totals) * share.fraction

    @torch.inference_mode()
    def detect(self, batch: Batch) -> list[dict[str, Tensor]]:
        """torchvision's outputs for the images of a batch.  ``InputError`` if the GPU's memory is full."""
        self.model.eval()
        try:
            with self._autocast():
                outputs: list[dict[str, Tensor]] = self.model(batch.images(self._device))
        except torch.OutOfMemoryError:
            raise InputError(
                f"rank {self._ranks.rank} is out of GPU memory: lower --eval-batch-size", local=True
            ) from None
        return outputs

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """SGD as in the reference: biases at twice the rate and without decay."""
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for name, p in learned if not name.endswith("bias")],
            "weight_decay": WEIGHT_DECAY,
            "rate_scale": 1.0,
        },
        {"params": [p for name, p in learned if name.endswith("bias")], "weight_decay": 0.0, "rate_scale": BIAS_RATE},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM, fused=True)
