"""How a model that has only a file is judged: by a user's labels and a metric, each a file here.

Functions of packages (entry points ``drumfire.metrics``) and of the user's modules are metrics too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drumfire.loadgen.errors import UserError, nearest, printable
from drumfire.loadgen.options import option
from drumfire.sut.models.metrics.metric import Metric
from drumfire.sut.models.metrics.scored import Scored
from drumfire.sut.plugins import Registry

__all__ = ["METRICS", "LabelOptions", "Metric", "metric_of"]


def _admitted(found: Any) -> Any:
    if isinstance(found, type) or not callable(found):
        raise TypeError(f"{found!r:.60} is not a function of outputs and labels")
    return found


METRICS = Registry(
    "drumfire.metrics",
    {
        "top1": f"{__name__}.top:Top1",
        "top5": f"{__name__}.top:Top5",
        "exact": f"{__name__}.scored:Exact",
        "map": f"{__name__}.precision:MeanPrecision",
    },
    _admitted,
)
"""Ours are made of what follows the name and a colon; those of packages are functions, see ``Scorer``."""


def metric_of(text: str, labels: Path | None = None, quality: float | None = None) -> Metric:
    """The metric that an option names: ``NAME``, ``NAME:OUTPUT``, ``MODULE:FUNCTION`` or ``MODULE:FUNCTION:OUTPUT``.

    ``labels``: their file; None where answers are only made.  Raises ``UserError`` for a name that is not known.
    """
    name, colon, rest = text.partition(":")
    metric: Metric
    if name in METRICS:
        made = METRICS[name]
        metric = made(rest) if isinstance(made, type) else Scored(rest, made, name)
    elif colon and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) and rest.partition(":")[0].isidentifier():
        function, _, output = rest.partition(":")
        metric = Scored(output, place := f"{name}:{function}", place)
    else:
        raise UserError(
            f"--metric {printable(text):.60}: not known; available: {', '.join(METRICS)}, or MODULE:FUNCTION"
            f"{nearest(name, METRICS)}"
        )
    metric.labels_file, metric.quality_target = labels, quality
    return metric


@dataclass(frozen=True)
class LabelOptions:
    """Labels of a user's own, for a model that has only a file, or a name on a server."""

    TITLE: ClassVar = "your own labels"

    labels: Path | None = option(
        None,
        metavar="FILE",
        help="the right answer to each sample, by which a model of yours is judged with --accuracy or --submission: "
        ".npy, .npz, JSON lines, text with one on each line, or with --metric map COCO's annotations (.json)",
    )
    metric: str = option(
        "top1",
        metavar="WHAT",
        needs=("labels",),
        known=lambda: tuple(METRICS),
        check=metric_of,
        help="how answers are judged: top1 (default), top5, exact, map, or MODULE:FUNCTION; top1:OUTPUT names the "
        "output where there are several, map:HEIGHTxWIDTH the network's picture where boxes are pixels of it",
    )
    quality: float | None = option(
        None,
        least=0,
        most=1,
        needs=("labels",),
        help="the accuracy that must be reached, 0 to 1 (default: none, so the accuracy is shown without a verdict)",
    )

    @property
    def judge(self) -> Metric | None:
        """A new one; None without labels.  Raises ``UserError``."""
        return None if self.labels is None else metric_of(self.metric, self.labels, self.quality)
