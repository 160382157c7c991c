"""nms and roi_align in plain torch, for machines where torchvision's compiled operators do not load.

The CUDA wheel of torchvision cannot load its library beside a CPU torch, and then cannot even be imported.  Import this
module before torchvision.  It does nothing where the compiled operators load.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    # Never called, but at its import torchvision registers a shape function for it.
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression.  ``boxes`` (n, 4) as x1, y1, x2, y2; ``scores`` (n,).

    Returns the indices of the kept boxes by descending score; equal scores keep their order.
    """
    order = scores.argsort(descending=True, stable=True)
    x1, y1, x2, y2 = boxes[order].float().unbind(1)
    width = (torch.minimum(x2[:, None], x2) - torch.maximum(x1[:, None], x1)).clamp_(min=0)
    height = (torch.minimum(y2[:, None], y2) - torch.maximum(y1[:, None], y1)).clamp_(min=0)
    shared = width.mul_(height)
    areas = (x2 - x1) * (y2 - y1)
    overlapping = (shared / (areas[:, None] + areas - shared) > iou_threshold).cpu().numpy()
    kept = np.ones(len(order), dtype=bool)
    for at in range(len(kept)):
        if kept[at]:
            kept[at + 1 :] &= ~overlapping[at, at + 1 :]
    return order[torch.from_numpy(kept).to(order.device)]


def roi_align(
    features: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The mean of bilinear samples in each bin of each region.  Differentiable in ``features``.

    ``features`` (n, c, h, w); ``rois`` (k, 5): the image's index, then x1, y1, x2, y2 before ``spatial_scale``.  With a
    ``sampling_ratio`` of 0 or less, a bin has one sample per pixel and side, rounded up.  Returns (k, c, pooled_height,
    pooled_width) with the dtype of ``features``.
    """
    pooled = (pooled_height, pooled_width)
    wide = features.float()
    start = rois[:, 1:3].float() * spatial_scale - (0.5 if aligned else 0.0)
    end = rois[:, 3:5].float() * spatial_scale - (0.5 if aligned else 0.0)
    extent = end - start if aligned else (end - start).clamp(min=1.0)
    image = rois[:, 0].long()
    parts, rows = [], []
    for number in range(features.shape[0]):
        mine = (image == number).nonzero().squeeze(1)
        if not len(mine):
            continue
        rows.append(mine)
        if sampling_ratio > 0:
            parts.append(_by_grid(wide[number], start[mine], extent[mine], pooled, sampling_ratio))
        else:
            parts.append(_by_weights(wide[number], start[mine], extent[mine], pooled))
    if not parts:
        # Empty, but part of the graph: every rank must have gradients for the same parameters.
        return (wide.sum() * 0).to(features.dtype).expand(0, features.shape[1], *pooled)
    back = torch.cat(rows).argsort()
    return torch.cat(parts)[back].to(features.dtype)


def _by_grid(features: Tensor, start: Tensor, extent: Tensor, pooled: tuple[int, int], ratio: int) -> Tensor:
    """Take ``ratio`` x ``ratio`` samples per bin.  ``features`` (c, h, w); ``start`` and ``extent`` (k, 2) as x, y."""
    height, width = features.shape[-2:]
    places, inside = [], []
    for axis, (bins, size) in enumerate(((pooled[1], width), (pooled[0], height))):
        steps = (torch.arange(bins * ratio, device=start.device) + 0.5) / (bins * ratio)
        pixels = (start[:, axis, None] + extent[:, axis, None] * steps).reshape(-1, bins, ratio).movedim(2, 0)
        inside.append((pixels >= -1.0) & (pixels <= size))
        places.append(pixels.clamp(0, size - 1) * (2 / max(size - 1, 1)) - 1)
    # As (ratio y, ratio x, k, bins y, bins x): the mean over samples is then a mean of whole planes, which is fast.
    x = places[0][None, :, :, None, :].expand(ratio, -1, -1, pooled[0], -1)
    y = places[1][:, None, :, :, None].expand(-1, ratio, -1, -1, pooled[1])
    grid = torch.stack((x, y), dim=-1).reshape(1, -1, pooled[1], 2)
    sampled = functional.grid_sample(features[None], grid, padding_mode="border", align_corners=True)
    planes = sampled.reshape(-1, ratio * ratio, len(start), *pooled)
    seen = inside[1][:, None, :, :, None] & inside[0][None, :, :, None, :]
    if not bool(seen.all()):
        planes = planes * seen.reshape(1, *planes.shape[1:])
    return planes.mean(dim=1).transpose(0, 1)


def _by_weights(features: Tensor, start: Tensor, extent: Tensor, pooled: tuple[int, int]) -> Tensor:
    """One sample per pixel of a bin.  Bilinear sampling is separable: two products with the bins' weights."""
    height, width = features.shape[-2:]
    across = _weights(start[:, 0], extent[:, 0], pooled[1], width)
    down = _weights(start[:, 1], extent[:, 1], pooled[0], height)
    return torch.einsum("kph,chw,kqw->kcpq", down, features, across)


def _weights(start: Tensor, extent: Tensor, bins: int, size: int) -> Tensor:
    """The weight of each pixel of one axis in each bin: (k, bins, size)."""
    samples = (extent / bins).ceil()  # 0 if the region is empty
    number = torch.arange(max(int(samples.max()), 1), device=start.device)
    taken = number < samples[:, None]
    samples = samples.clamp(min=1)
    step = (number + 0.5) / samples[:, None]
    at = torch.arange(bins, device=start.device)
    pixels = start[:, None, None] + (extent / bins)[:, None, None] * (at[None, :, None] + step[:, None, :])
    counts = taken[:, None, :] & (pixels >= -1.0) & (pixels <= size)
    pixels = pixels.clamp(0, size - 1)
    low = pixels.floor()
    share = pixels - low
    weight = counts / samples[:, None, None]
    weights = torch.zeros(len(start), bins, size, device=start.device)
    weights.scatter_add_(2, low.long(), weight * (1 - share))
    weights.scatter_add_(2, (low.long() + 1).clamp(max=size - 1), weight * share)
    return weights


def _compiled_load() -> bool:
    """Whether torchvision's own library loads.  Loading it twice does no harm."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            "torchvision is not installed: run make train, or install the extra train", name="torchvision"
        )
    for library in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False


def _install() -> torch.library.Library:
    """Register our operators under torchvision's names, and make torchvision believe that its own are loaded."""
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    library.impl("nms", nms, "CompositeExplicitAutograd")
    library.impl("roi_align", roi_align, "CompositeImplicitAutograd")
    import torchvision.extension

    torchvision.extension._has_ops = lambda: True
    # This module holds its own reference to the function.  The package's attribute of the same name is an operator.
    sys.modules["torchvision.ops.roi_align"].__dict__["_has_ops"] = lambda: True
    return library


COMPILED = _compiled_load()
"""Whether torchvision uses its own operators."""
_LIBRARY = None if COMPILED else _install()  # kept for the whole program, because the registration ends with it
