"""Which model a MODEL of the command line is: a named one, or the one in a file."""

from __future__ import annotations

import os
from pathlib import Path

from drumfire.bench.assemble.options import RunOptions
from drumfire.loadgen.errors import UserError, nearest
from drumfire.loadgen.options import flag
from drumfire.sut import models
from drumfire.sut.data import coco
from drumfire.sut.data.options import InputOptions
from drumfire.sut.local import backends
from drumfire.sut.models.detector import DetectionJudge
from drumfire.sut.models.file import FileModel
from drumfire.sut.models.metrics import LabelOptions
from drumfire.sut.models.model import FollowsFile, Form, Model


def chosen(options: RunOptions) -> Model:
    """The model that a run's options name.  Raises ``UserError``."""
    if options.backend != "null":
        return model_of(options.model, options.system.labelled, options.system.inputs)
    if is_file(options.model):
        raise UserError("the null backend needs a named model for its data: drumfire run null digits")
    return model_of(options.model, LabelOptions())


def is_file(model: str) -> bool:
    """Whether a MODEL is the path of a file."""
    suffixes = tuple(form.value for form in Form)
    return model not in models.MODELS and (model.endswith(suffixes) or os.sep in model)


def model_of(model: str, labelled: LabelOptions, inputs: InputOptions | None = None) -> Model:
    """The model that a MODEL names, or the one in the file that it is, judged by the labels.  Raises ``UserError``."""
    if is_file(model):
        backends.check_model(Path(model))
        judge = labelled.judge
        if judge is not None:
            judge.prepare()
        return FileModel(Path(model), inputs, judge=judge)
    if labelled.labels is not None:
        raise UserError(f"{model} is judged by labels of its own: leave --labels out, or give a model's file")
    try:
        found = models.get(model)
    except models.UnknownModel as error:
        raise UserError(f"{error}{nearest(model, models.MODELS)}") from None
    sizes = ("dim", "shape", "input") if isinstance(found, FollowsFile) else ()
    if inputs is not None and (said := [name for name in inputs.said if name not in sizes]):
        raise UserError(
            f"{flag(said[0])} has no effect with {model}, which has data of its own: leave it out, or give a "
            "model's file"
        )
    return found


def check_judged(model: Model, asked: str) -> None:
    """Find out before the run what would fail after it."""
    if isinstance(model, FileModel) and model.judge is None:
        raise UserError(
            f"{model.name} is a bare file without labels: give them with --labels, or run it without {asked}"
        )
    if isinstance(model, DetectionJudge):
        coco.check_evaluator()
