"""Networks whose weights are published but not shipped: where the weights come from, and what stands in for them.

A file given by the user, else one that 'drumfire prepare weights' has fetched, else random numbers, which are good for
speed only.  Knows files and the exporter; must not know what a network computes.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from drumfire.loadgen import installation
from drumfire.sut.fetch import check
from drumfire.sut.models.model import Form, MissingExtra, WeightsError

if TYPE_CHECKING:
    from torch import nn

SYNTHETIC = "synthetic weights: speed only, accuracy not meaningful"
SYNTHETIC_MARK = "synthetic"
"""In the name of a file that is made of random weights, and of what is made of such a file."""
_SEED = 1
_STATE_DICTS = {".pth", ".pt"}


class Published(NamedTuple):
    """A file of weights and where it is published."""

    file: str
    url: str
    about: str


class PublishedNetwork(ABC):
    """The weights' side of a model: a class in ``networks`` and the files that fit it."""

    name: str
    extra: str | None = "vision"
    target_latency_ms: int | None = None
    published: Sequence[Published]
    """The first is what 'drumfire prepare weights' fetches unless told otherwise."""
    outputs: Sequence[str]
    """Names of the outputs of our own export."""
    input_shape: tuple[int, ...]
    """Of one sample, as the recipe makes it."""
    input_dtype: np.dtype[Any]

    def __init__(self) -> None:
        self._synthetic = False
        self._source: Path | None = None

    @abstractmethod
    def new_network(self) -> nn.Module:
        """The architecture, initialised by torch's current random state."""

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """See ``Model.weights``."""
        source = given or self._prepared(cache, form)
        self._source = source
        self._synthetic = source is None or SYNTHETIC_MARK in source.stem
        if source is not None and source.suffix not in _STATE_DICTS:
            return source
        path = cache / f"{self.name}-{self._digest(source, form)}{form.value}"
        if not path.exists():
            self._export(self.network(source), path, form)
        return path

    def _export(self, network: nn.Module, path: Path, form: Form) -> None:
        """Write ``network`` in the form asked for; its name tells all that it was made from."""
        from drumfire.sut.models.weights import forms

        try:
            forms.export(network, self.input_shape, path, form, outputs=self.outputs, dtype=self.input_dtype)
        except ImportError as error:
            raise self._missing(error.name) from None

    def published_in(self, form: Form) -> list[Published]:
        """The published files that can be had in this form: a state dict can be in any."""
        return [one for one in self.published if Path(one.file).suffix in (form.value, *_STATE_DICTS)]

    @property
    def state_dict_given(self) -> bool:
        """Whether the weights in use came as torch's state dict."""
        return self._source is not None and self._source.suffix in _STATE_DICTS

    @property
    def weights_reservations(self) -> list[str]:
        return [SYNTHETIC] if self._synthetic else []

    def network(self, source: Path | None) -> nn.Module:
        """The network in eval mode, with the state dict in ``source`` or, where that is None, random weights.

        Raises ``MissingExtra``, and ``WeightsError`` for a file that does not fit.
        """
        try:
            import torch
        except ImportError as error:
            raise self._missing(error.name) from None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            network = self.new_network().eval()
            if source is None:
                _spread(network)
        if source is not None:
            self._load(network, source)
        return network

    def _load(self, network: nn.Module, source: Path) -> None:
        import torch

        try:
            state = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds, some with pages of advice
            text = str(error).strip().split("\n", 1)[0][:150]
            raise WeightsError(f"{source} is not a state dict of tensors ({text}): give one, or an ONNX file") from None
        if isinstance(state, dict) and isinstance(state.get("model"), dict):
            state = state["model"]  # a training's checkpoint
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            lines = str(error).strip().split("\n")
            text = " ".join(lines[1].split())[:150] if len(lines) > 1 else lines[0][:150]
            raise WeightsError(f"{source} holds the weights of another network than {self.name}: {text}") from None

    def _prepared(self, cache: Path, form: Form) -> Path | None:
        """The first published file in the cache that can be had in this form, checked against its recorded SHA-256."""
        for published in self.published_in(form):
            path = cache / published.file
            if path.exists():
                check(path)
                return path
        return None

    def _digest(self, source: Path | None, form: Form) -> str:
        """Of all that the export is made from: weights, or the code and the seed that make them, and the exporter."""
        from drumfire.sut.models.weights import forms

        try:
            found = hashlib.sha256(forms.exporter(form).encode())
        except PackageNotFoundError as error:
            raise self._missing(error.name) from None
        folder = Path(__file__).parent
        own = (Path(__file__), Path(inspect.getfile(type(self))), *sorted(folder.glob("*_export.py")))
        for code in (*own, *sorted((folder / "networks").glob("*.py"))):
            found.update(code.read_bytes())
        if source is None:
            return f"{SYNTHETIC_MARK}-{found.hexdigest()[:12]}"
        try:
            found.update(source.read_bytes())
        except OSError as error:
            raise WeightsError(f"cannot read {source}: {error.strerror or error}") from None
        return found.hexdigest()[:12]

    def _missing(self, package: str | None) -> MissingExtra:
        from drumfire.sut.models.weights import forms

        extra = forms.extra_with(package, self.extra)
        return MissingExtra(f"{self.name} needs {package}, which is not installed: {installation.command(extra)}")


def _spread(network: nn.Module) -> None:
    """Random weights that keep the signal's size from layer to layer; torch's own let it fade to a constant."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
