"""A model that is loaded on this machine, and what runs it in batches: made in the generator's process or another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen.responses import Responses, as_bytes
from drumfire.loadgen.system import Batch, IndexArray, SampleLibrary
from drumfire.sut import models
from drumfire.sut.data import DataError
from drumfire.sut.data.library import ArrayLibrary, NamedLibrary, with_names
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.ragged import Padding, RaggedLibrary
from drumfire.sut.kserve.messages.tensors import Shape
from drumfire.sut.local import backends
from drumfire.sut.local.backends.arranged import arranged
from drumfire.sut.local.backends.buckets import Buckets, count_of
from drumfire.sut.local.batcher import BatchedSystem, Library, RunBatch, in_turn, service_times
from drumfire.sut.local.devices import Placement
from drumfire.sut.local.followed import Follows, check_followed, own_sizes
from drumfire.sut.local.padded import outputs_of, pair, reservation
from drumfire.sut.local.process import OwnProcess
from drumfire.sut.local.responses import OutputError, check_outputs
from drumfire.sut.models.file import FileModel
from drumfire.sut.models.metrics import metric_of
from drumfire.sut.models.model import FollowsFile, Model
from drumfire.sut.models.tensors import Tensors, arrangement


@dataclass(frozen=True)
class Source:
    """Which model to load, and how to run it.  Plain data, which goes to another process."""

    backend: str
    model: str
    """The name of a model, or the path of a bare file."""
    weights: Path
    device: str
    threads: int
    """Of each instance."""
    options: backends.BackendOptions
    max_queue_delay_s: float
    dataset_path: Path | None
    count: int | None
    performance_count: int | None
    padding: Padding | None = None
    """Of samples of different sizes; None: see ``RaggedLibrary.pad``."""
    in_order: bool = False
    """They are not sorted by size."""
    metric: str = ""
    """How a bare file's answers are made of its outputs, where they can be judged: see ``metric_of``."""
    inputs: InputOptions = field(default_factory=InputOptions)
    """Of a bare file, or of a model whose samples have the sizes of its file."""


class Loaded:
    """The loaded model: its ``system`` runs batches of the samples of its ``library``."""

    def __init__(self, source: Source) -> None:
        """Raises ``BackendError``, and what the model's library raises."""
        size, options = source.options.max_batch_size, source.options
        options = replace(options, padded_sizes=source.padding.sizes if source.padding else ())
        self._model = model = named(source)
        if isinstance(model, FileModel):
            options = replace(options, sized=model.sized)
        elif isinstance(model, FollowsFile):
            options = replace(
                options, sized=lambda file: file.with_sizes_of(model.for_file(file, source.inputs).tensors)
            )
        self._instances = [
            backends.load(source.backend, source.weights, source.device, source.threads, options)
            for _ in range(options.instances)
        ]
        self._reservations: list[str] = []
        self._file = self._instances[0].tensors
        if isinstance(model, FollowsFile):
            self._model = model.for_file(self._file, source.inputs)
        self._arrange()
        first = self._instances[0]
        self.description = first.description
        data = self._model.library(source.dataset_path, source.count, source.performance_count)
        self.library = fit(data, first, self._model, source.padding)
        if not isinstance(self.library, RaggedLibrary) and (source.padding is not None or source.in_order):
            option = "--pad" if source.padding is not None else "--no-sort"
            raise DataError(f"{option} is for samples of different sizes, and {data.name} has one size: leave it out")
        self.max_batch_size = first.tensors.batch_size or size
        lanes = [backends.lanes(instance) for instance in self._instances]
        follows: Sequence[Follows] = ()
        if isinstance(self.library, RaggedLibrary):
            follows = self._of_sizes(source, self.library)
        self.system = BatchedSystem(
            f"{source.backend} {self._model.name} {source.device}",
            [_Run(lane, self._model, follows) for of_one in lanes for lane in of_one],
            self.library,
            max_batch_size=self.max_batch_size,
            max_queue_delay_s=source.max_queue_delay_s,
            in_order=source.in_order,
            lanes=len(lanes[0]),
        )

    def _arrange(self) -> None:
        """Let every instance have the batch first in all that it takes and gives."""
        first, model = self._instances[0], self._model
        if isinstance(model, FileModel):
            model.learn(first)
            tensors = model.tensors.laid_out_as(first.tensors)
        else:
            tensors = first.tensors if model.tensors.has_batch else first.tensors.without_batch()
        self._tensors = tensors
        self._instances = [arranged(instance, tensors) for instance in self._instances]

    def _of_sizes(self, source: Source, library: RaggedLibrary) -> Sequence[Follows]:
        """How outputs of padded samples are cut back.

        Notes what the result is subject to where samples of different sizes become batches as no model has said.
        """
        model, first = self._model, self._instances[0]
        if not library.pads:
            if isinstance(model, FileModel) and self.max_batch_size > 1:
                sorted_too = ", --no-sort has no effect" if source.in_order else ""
                self._reservations.append(
                    f"samples of {model.shapes_of(library.total_count)} sizes: only those of equal size share a batch "
                    f"(--pad longest pads them with 0){sorted_too}"
                )
            return ()
        if self.max_batch_size == 1 and source.padding in (None, Padding()):
            return ()  # each batch has the size of its sample
        found = pair(library)
        follows, uncut = outputs_of(first, self._tensors, found)
        if uncut and isinstance(model, FileModel):  # others know of what they make their answers
            self._reservations.append(uncut)
        if source.padding is not None and any(one.padding is None for one in model.tensors.open_inputs.values()):
            exact = getattr(source.options, "precision", "fp32") == "fp32"
            bfloat16 = [name in first.tensors.bfloat16_outputs for name in first.tensors.outputs]
            changed = reservation(run_outputs(first), found, bfloat16, 1e-4 if exact else 0.02)
            self._reservations += [changed] if changed else []
        return follows

    def facts(self) -> Mapping[str, Any]:
        """What the result says of it."""
        return {
            "description": self.description,
            "max_batch_size": self.max_batch_size,
            # Those of the data are known where the library is made.
            "reservations": [*self._model.reservations, *self._reservations],
        }

    def tensors(self) -> Tensors:
        """The file's."""
        return self._file

    def for_file(self, model: Model) -> Model:
        """This model, whose library and answers are those of the run."""
        return self._model if isinstance(model, FollowsFile) else model

    def outputs(self) -> tuple[Sequence[str], Sequence[tuple[int | None, ...] | None]]:
        """Names, and shapes for a sample as far as they are known."""
        tensors = self._model.tensors
        return tensors.outputs, tensors.output_samples

    def times(self, batch_size: int, seconds: float, least: int) -> list[float]:
        """How long batches of real samples take, s: for about ``seconds``, at least ``least`` of them.

        Raises ``BackendError`` if the model refuses the data, and ``OutputError``.
        """
        library = self.library
        indices = np.arange(batch_size) % min(library.performance_count, library.total_count)
        run = run_batch(self._instances[0], self._model, checked=True)
        library.load(indices)
        batches: list[Batch] = []
        try:
            parts = library.divided(indices) if isinstance(library, RaggedLibrary) else [indices]
            batches += (library.batch(part) for part in parts)
            # The first may still be warming up.
            return service_times(lambda: [run(batch) for batch in batches], seconds, least)
        except OutputError:
            raise
        except Exception as error:  # whatever a model may raise on the data
            advice = self._model.advice(" ".join(str(error).split())) if isinstance(self._model, FileModel) else ""
            which = f"samples 0 to {indices.max()}" if indices.max() else "sample 0"
            shapes = "; ".join(
                ", ".join(f"{name} {list(one.shape)}" for name, one in batch.items()) for batch in batches
            )
            raise backends.BackendError(
                f"the model does not run on its data, {which} ({shapes}): {backends.first_line(error)}{advice}"
            ) from None
        finally:
            library.unload(indices)

    def close(self) -> None:
        """Release the model."""
        for instance in self._instances:
            instance.close()


class LoadedElsewhere:
    """The same in processes of their own, one for each of ``places``."""

    def __init__(self, source: Source, places: Sequence[Placement]) -> None:
        """Raises what ``Loaded`` raises, as ``UserError``."""
        self.system = OwnProcess(
            f"{Loaded.__module__}:{Loaded.__name__}",
            source,
            workers=source.options.instances * (backends.MOST_LANES if source.device == "gpu" else 1),
            processes=places,
        )
        self.library = self.system.library
        self._inputs = source.inputs

    def facts(self) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = self.system.ask("facts")
        return facts

    def for_file(self, model: Model) -> Model:
        """See ``Loaded.for_file``; the library is another."""
        if not isinstance(model, FollowsFile):
            return model
        return model.for_file(self.system.ask("tensors"), self._inputs)

    def outputs(self) -> tuple[Sequence[str], Sequence[tuple[int | None, ...] | None]]:
        found: tuple[Sequence[str], Sequence[tuple[int | None, ...] | None]] = self.system.ask("outputs")
        return found

    def times(self, batch_size: int, seconds: float, least: int) -> list[float]:
        times: list[float] = self.system.ask("times", batch_size, seconds, least)
        return times

    def close(self) -> None:
        self.system.shut()


def named(source: Source) -> Model:
    """The model of this name, or the one in a bare file of this path."""
    if source.model in models.MODELS:
        return models.get(source.model)
    judge = metric_of(source.metric) if source.metric else None
    sizes = source.padding.sizes if source.padding is not None else ()
    padded_to = sizes[0] if len(sizes) == 1 else None
    return FileModel(Path(source.model), source.inputs, source.dataset_path, judge=judge, padded_to=padded_to)


def fit(
    library: SampleLibrary, backend: backends.Backend, model: Model, padding: Padding | None = None
) -> ArrayLibrary | NamedLibrary:
    """Check that the backend takes the model's data; returns the data as it wants it, padded by the rule ``padding``.

    An ``ArrayLibrary`` is changed itself, from its next load on.  Raises ``BackendError``, and ``DataError``.
    """
    tensors, way = model.tensors, "give another file with --weights"
    if isinstance(library, RaggedLibrary):
        library.pad(tensors.open_inputs, padding)
        if padding is not None and len(padding.sizes) == 1:
            tensors = tensors.with_open_sizes(padding.sizes[0])
        way += ", or pad the data with --pad N to a size that the file takes"
    feeds = backend.tensors.feeds(tensors)
    if feeds is None:
        raise backends.BackendError(f"the file takes {backend.tensors}, and {model.name}'s data is {tensors}: {way}")
    return with_names(library, arrangement(feeds))


def run_batch(backend: backends.Backend, model: Model, *, checked: bool = False) -> RunBatch:
    """What runs a batch of this model's samples.

    ``checked``: it raises ``OutputError`` for outputs that are not a row for each sample.
    """
    run, names = run_outputs(backend), backend.tensors.outputs
    if not checked:
        return _Run(backend, model)

    def respond(batch: Batch) -> Responses:
        outputs = run(batch)
        check_outputs(outputs, names, count_of(batch))
        return model.respond(outputs)

    return respond


def run_outputs(backend: backends.Backend) -> backends.Run:
    """What gives the outputs of a batch of any size up to the file's own."""
    size = backend.tensors.batch_size
    return backend.run if size is None else Buckets({size: backend.run}, backend.tensors.outputs).run


class _Run:
    """Runs batches of a model's samples."""

    def __init__(self, backend: backends.Backend, model: Model, follows: Sequence[Follows] = ()) -> None:
        """``follows``: see ``followed``."""
        self._run, self._respond = run_outputs(backend), model.respond
        self._backend = backend if isinstance(backend, backends.RunsSeveral) else None
        if isinstance(backend, backends.HasLanes):
            self.room = backend.room
        self._tensors, self._follows = backend.tensors, follows
        if any(follows):
            self.cut = self._cut

    def __call__(self, batch: Batch) -> Responses:
        return self._respond(self._run(batch))

    def _cut(self, batch: Batch, alone: Sequence[Batch]) -> list[bytes]:
        """See ``RunCut``."""
        outputs, names = self._run(batch), [one.name for one in self._tensors.inputs]
        check_followed(outputs, self._follows, _shapes(batch, names), self._tensors.outputs)
        responses: list[bytes] = []
        for row, one in enumerate(alone):
            shapes = _shapes(one, names)
            own = [
                output[(slice(row, row + 1), *map(slice, own_sizes(output, follows, shapes)))]
                for output, follows in zip(outputs, self._follows, strict=True)
            ]
            responses += as_bytes(self._respond(own))
        return responses

    def several(self, library: Library, indices: IndexArray, size: int) -> Iterator[Responses]:
        """See ``RunSeveral``."""
        if self._backend is not None:
            number = len(indices) // size
            room = self._backend.room(size, number)
            if room is not None:
                outputs = self._backend.several(library.batch(indices, room), size, number)
                if outputs is not None:
                    return map(self._respond, outputs)
        return in_turn(self, library, indices, size)


def _shapes(batch: Batch, names: Sequence[str]) -> list[Shape | None]:
    """The shapes of a batch's samples, by input; None for one that is left out."""
    return [batch[name].shape[1:] if name in batch else None for name in names]
