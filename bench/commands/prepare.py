"""``drumfire prepare``: fetches, generates or checks the data and weights of runs.

``fake`` generates a data set; ``check`` checks that a data folder is complete; ``weights`` fetches a published file;
``quantize`` makes an int8 file of a network's ONNX file, and judges and times both.
"""

from __future__ import annotations

import hashlib
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from drumfire.bench import statuses
from drumfire.bench.assemble.local import spare_cores
from drumfire.bench.assemble.model import model_of
from drumfire.bench.options.parser import Command
from drumfire.bench.report.terminal import say
from drumfire.loadgen.environment import versions
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import option
from drumfire.loadgen.system import Batch, SampleLibrary
from drumfire.sut import models
from drumfire.sut.cache import cache_folder
from drumfire.sut.data import coco, fake, imagenet
from drumfire.sut.data.library import ArrayLibrary, NamedLibrary, named, with_names
from drumfire.sut.fetch import fetch
from drumfire.sut.local import backends
from drumfire.sut.local.backends.arranged import arranged
from drumfire.sut.local.batcher import service_times
from drumfire.sut.local.loaded import fit
from drumfire.sut.models.detector import DetectionJudge
from drumfire.sut.models.file import FileModel
from drumfire.sut.models.imagenet import ImageNetClassifier
from drumfire.sut.models.metrics import LabelOptions
from drumfire.sut.models.model import Accuracy, Calibrated, Form, Model
from drumfire.sut.models.weights import external_data, quantization
from drumfire.sut.models.weights.publication import SYNTHETIC, SYNTHETIC_MARK, Published, PublishedNetwork

_KINDS = tuple(fake.KINDS)
_QUANTIZED_FOR = "onnxruntime"
_BATCH_SIZES = 1, backends.MAX_BATCH_SIZE
_TURNS = 5
_READ_TOGETHER = 8 * _BATCH_SIZES[-1]
"""Samples in memory while a network is judged."""
_Library = ArrayLibrary | NamedLibrary


@dataclass(frozen=True)
class Fake:
    """The options of ``drumfire prepare fake``."""

    kind: str = option(metavar="KIND", position=True, choices=_KINDS, help=", ".join(_KINDS))
    count: int = option(500, most=1e7, help="pictures")
    output: Path | None = option(None, metavar="D", help="where (default: ./fake_KIND)")


@dataclass(frozen=True)
class Check:
    """The options of ``drumfire prepare check``."""

    kind: str = option(metavar="KIND", position=True, choices=_KINDS, help=", ".join(_KINDS))
    dataset_path: Path | None = option(None, metavar="D", help="the folder (default: $DATA_DIR)")


@dataclass(frozen=True)
class Weights:
    """The options of ``drumfire prepare weights``."""

    model: str = option(metavar="MODEL", position=True, help=", ".join(models.MODELS))
    file: str | None = option(None, help="published file to fetch (default: the ONNX file)")
    url: str | None = option(None, metavar="URL", help="fetch it from here instead, such as a mirror")


@dataclass(frozen=True)
class Quantize:
    """The options of ``drumfire prepare quantize``."""

    model: str = option(
        metavar="MODEL", position=True, help=f"{', '.join(models.MODELS)}, or an ONNX file with --labels"
    )
    weights: Path | None = option(None, help="the ONNX file (default: the model's own)")
    dataset_path: Path | None = option(None, metavar="D", help="folder of the model's data set")
    count: int | None = option(None, help="judge both on the first N samples (default: all)")
    calibration_count: int = option(100, help="samples to take the activations' ranges from")
    output: Path | None = option(None, help="the file to write (default: one in the cache)")
    labelled: LabelOptions = field(default_factory=LabelOptions)


def fake_data(options: Fake) -> int:
    """Generate a data set in the layout of a real one."""
    folder = options.output or Path(f"fake_{options.kind}")
    fake.generate(options.kind, folder, options.count)
    _console().print(f"{options.count} pictures are in {folder}: export DATA_DIR={folder.resolve()}")
    return statuses.DONE


def check_data(options: Check) -> int:
    """Read a data set's lists and check that every picture exists.  Raises ``DataError`` if one is missing."""
    folder = options.dataset_path or Path(os.environ.get("DATA_DIR", ""))
    if folder == Path():
        raise UserError("no data folder: give --dataset-path, or set DATA_DIR")
    if options.kind == "imagenet":
        labelled = imagenet.read(folder)
        classes = len(set(labelled.labels.tolist()))
        text = f"{len(labelled.files):,} pictures of {classes} classes"
        complete, count = imagenet.VALIDATION_COUNT, len(labelled.files)
    else:
        layout = {layout.name: layout for layout in (coco.COCO, coco.OPENIMAGES)}[options.kind]
        annotated = coco.read(folder, layout)
        complete, count = layout.whole, len(annotated.files)
        text = f"{count:,} pictures with {len(annotated.annotations):,} annotations"
    _console().print(f"{folder} holds {text}" + ("" if count == complete else f" (the real set has {complete:,})"))
    return statuses.DONE


def weights(options: Weights) -> int:
    """Fetch a published file of weights into the cache, where runs look for it."""
    published = _published(options)
    path = cache_folder() / published.file
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=_console()) as progress:
        shown = progress.add_task(published.file, total=None)
        digest = fetch(
            options.url or published.url, path, lambda done, whole: progress.update(shown, completed=done, total=whole)
        )
    _console().print(f"{path}: SHA-256 {digest}")
    return statuses.DONE


def quantize(options: Quantize) -> int:
    """Write the model's network in int8, then show the accuracy and speed of both."""
    model, console = model_of(options.model, options.labelled), _console()
    if isinstance(model, FileModel):
        _check_labelled(model, options)
    source = model.weights(cache_folder(), options.weights, Form.ONNX)
    _check_source(model, source, options.output)
    if isinstance(model, DetectionJudge):
        coco.check_evaluator()  # now rather than at the end
    if isinstance(model, FileModel):
        _learn_tensors(model)
    library = model.library(options.dataset_path, options.count)
    if isinstance(model, FileModel) and model.judge is not None:
        model.judge.check(library.total_count, options.count)
    notes = list(model.reservations)
    if isinstance(model, Calibrated):
        samples = named(model.calibration(options.calibration_count))
    else:
        shown = min(options.calibration_count, library.total_count)
        notes.append(f"calibrated on {shown} of the samples that will judge it: {model.name} has no other samples here")
        samples = _loaded(with_names(library), np.arange(shown))
    for note in notes:
        say(console, f"note: {note}", "dim")
    target = options.output or cache_folder() / _int8_name(source, samples)
    if options.output or not target.exists():
        quantization.quantize(source, samples, target)
    _compare(model, library, (source, target), console)
    words = str(target) if isinstance(model, FileModel) else f"{model.name} cpu --weights {target}"
    console.print(f"to run it: drumfire run {_QUANTIZED_FOR} {words}", markup=False)
    return statuses.DONE


COMMANDS = {
    "fake": Command(Fake, fake_data, "Generate a data set in a real one's layout, with labels and annotations."),
    "check": Command(Check, check_data, "Check that a data folder is complete, and show what is missing."),
    "weights": Command(Weights, weights, "Fetch the published weights of a model; resumes where it stopped."),
    "quantize": Command(
        Quantize, quantize, f"Make a model's int8 ONNX file for {_QUANTIZED_FOR}, and compare the two."
    ),
}


def _check_labelled(model: FileModel, options: Quantize) -> None:
    if model.judge is None:
        raise UserError(
            f"{options.model} and its int8 file are compared by labels of its samples: give them with --labels"
        )
    if options.weights is not None:
        raise UserError(f"{options.model} is the file: leave --weights out")


def _learn_tensors(model: FileModel) -> None:
    """Find out what the file takes and gives, before samples of it can be had."""
    network = _network(model.path)
    model.learn(network)
    network.close()
    if any(one.batch_axis != 0 for one in model.tensors.inputs):
        raise UserError(f"{model.path} has an input whose first size is not the batch, which cannot be quantized here")


def _network(file: Path) -> backends.Backend:
    return backends.load(_QUANTIZED_FOR, file, "cpu", spare_cores())


def _check_source(model: Model, source: Path, output: Path | None) -> None:
    if source.suffix != Form.ONNX.value:
        raise UserError(f"{source} is not an ONNX file: give one with --weights")
    if not source.is_file():
        raise UserError(f"no such file: {source}")
    if isinstance(model, ImageNetClassifier) and model.state_dict_given and model.recipe != model.state_dict_recipe:
        raise UserError(
            f"{model.name}'s state dict needs other preprocessing than its ONNX files, and int8 files are ONNX files: "
            "give the published ONNX file with --weights"
        )
    if output is not None and SYNTHETIC in model.reservations and SYNTHETIC_MARK not in output.stem:
        raise UserError(
            f"--output {output}: put '{SYNTHETIC_MARK}' in the name, because its weights are random numbers"
        )


def _int8_name(source: Path, samples: Batch) -> str:
    """The file's name, with a hash of everything that the file is made from."""
    digest = hashlib.sha256()
    for path in (*external_data.files(source), Path(quantization.__file__)):
        digest.update(path.read_bytes())
    for array in samples.values():
        digest.update(np.ascontiguousarray(array).data)
    digest.update(str(versions(backends.distributions(_QUANTIZED_FOR))).encode())
    return f"{source.stem}-int8-{digest.hexdigest()[:12]}{Form.ONNX.value}"


def _loaded(library: _Library, indices: npt.NDArray[np.int64]) -> Batch:
    library.load(indices)
    return {name: np.array(array) for name, array in library.batch(indices).items()}


def _compare(model: Model, data: SampleLibrary, files: tuple[Path, Path], console: Console) -> None:
    """Judge both networks on every sample and time them, then show them side by side."""
    tensors = model.tensors if isinstance(model, FileModel) else None
    networks = [arranged(_network(file), tensors) for file in files]
    library, only = fit(data, networks[0], model), networks[0].tensors.batch_size
    sizes = (only,) if only else _BATCH_SIZES
    before, after = _judged(model, library, networks, sizes[-1])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (model.name, "fp32", "int8"):
        table.add_column(heading, justify="left" if heading == model.name else "right")
    table.add_row("file", *(f"{file.stat().st_size / 1e6:,.3g} MB" for file in files))
    table.add_row(f"{before.metric} of {before.total:,} samples", f"{before.value:.2%}", f"{after.value:.2%}")
    for size in sizes:
        batch = _loaded(library, np.arange(size) % library.total_count)
        rates = [size / seconds for seconds in _batch_seconds(networks, batch)]
        shown = (f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}" for rate in rates)
        table.add_row(f"samples/s, batches of {size}", *shown)
    console.print(table)
    if after.target is not None and not after.reached:
        say(console, f"note: int8 is below the target of {after.target:.2%}", "yellow")


def _judged(model: Model, library: _Library, networks: Sequence[backends.Backend], batch_size: int) -> list[Accuracy]:
    everything = np.arange(library.total_count)
    responses: list[list[bytes]] = [[] for _ in networks]
    for part in np.split(everything, range(_READ_TOGETHER, everything.size, _READ_TOGETHER)):
        library.load(part)
        for indices in np.split(part, range(batch_size, part.size, batch_size)):
            batch = library.batch(indices)
            for network, answers in zip(networks, responses, strict=True):
                answers += [bytes(response) for response in model.respond(network.run(batch))]
    return [model.accuracy(everything, model.logged(everything, answers)) for answers in responses]


def _batch_seconds(networks: Sequence[backends.Backend], batch: Batch) -> list[float]:
    """Each network's median time, s; measured in turns, because the machine's speed changes."""
    times: list[list[float]] = [[] for _ in networks]
    for _ in range(_TURNS):
        for network, of_network in zip(networks, times, strict=True):
            of_network += service_times(partial(network.run, batch), least=1)
    return [statistics.median(of_network) for of_network in times]


def _published(options: Weights) -> Published:
    model = models.get(options.model)
    if not isinstance(model, PublishedNetwork):
        raise UserError(f"{model.name} comes with its weights: there is nothing to fetch")
    if not model.published:
        raise UserError(f"{model.name}'s weights are not published as a file: give your own to a run with --weights")
    files = {published.file: published for published in model.published}
    if options.file is None:
        return model.published[0]
    if options.file not in files:
        raise UserError(f"{model.name} has no published file {options.file!r}; available: {', '.join(files)}")
    return files[options.file]


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
