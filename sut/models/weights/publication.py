"""Networks whose weights are published but not bundled.

The weights are the user's file, else one that 'drumfire prepare weights' has fetched, else random numbers, which serve
to measure speed only.  Does not depend on what a network computes.
"""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from drumfire.sut.fetch import check
from drumfire.sut.models.model import Form, MissingExtra, WeightsError, missing_extra
from drumfire.sut.models.tensors import Tensors

if TYPE_CHECKING:
    from torch import nn

SYNTHETIC = "synthetic weights: speed only, accuracy not meaningful"
SYNTHETIC_MARK = "synthetic"
"""Part of the name of a file of random weights, and of files made from it."""
_SEED = 1
STATE_DICTS = {".pth", ".pt"}
"""The suffixes of torch's state dicts."""


class Published(NamedTuple):
    """A file of weights and its source."""

    file: str
    url: str
    about: str


class PublishedNetwork(ABC):
    """The weights' side of a ``Model``: a class in ``networks`` and the files that fit it."""

    name: str
    extra: str | None = "vision"
    target_latency_ms: int | None = None
    published: Sequence[Published]
    """'drumfire prepare weights' fetches the first by default.  Empty: only the user can give weights."""

    def __init__(self) -> None:
        self._synthetic = False
        self._source: Path | None = None

    @property
    @abstractmethod
    def tensors(self) -> Tensors:
        """See ``Model.tensors``."""

    @abstractmethod
    def new_network(self) -> nn.Module:
        """The architecture, initialised from torch's current random state."""

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """See ``Model.weights``."""
        source = given or self._prepared(cache, form)
        self._source = source
        self._synthetic = source is None or SYNTHETIC_MARK in source.stem
        if source is not None and source.suffix not in STATE_DICTS:
            return source
        path = cache / f"{self.name}-{self._digest(source, form)}{form.value}"
        if not path.exists():
            self._export(self.network(source), path, form)
        return path

    def _export(self, network: nn.Module, path: Path, form: Form) -> None:
        """Write ``network`` to ``path`` in the form ``form``."""
        from drumfire.sut.models.weights import forms

        try:
            forms.export(network, self.tensors, path, form)
        except ImportError as error:
            raise self._missing(error.name) from None

    def published_in(self, form: Form) -> list[Published]:
        """The published files that can be run in this form: those of the form, and state dicts, which are exported."""
        return [file for file in self.published if Path(file.file).suffix in (form.value, *STATE_DICTS)]

    @property
    def state_dict_given(self) -> bool:
        """Whether the weights in use came as torch's state dict."""
        return self._source is not None and self._source.suffix in STATE_DICTS

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

        from drumfire.sut.local.backends import first_line

        try:
            state = torch.load(source, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds
            raise WeightsError(
                f"{source} is not a state dict of tensors ({first_line(error)}): pass one, or an ONNX file"
            ) from None
        if isinstance(state, dict) and isinstance(state.get("model"), dict):
            state = state["model"]  # a training's checkpoint
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            lines = str(error).strip().split("\n")
            text = " ".join(lines[1].split())[:150] if len(lines) > 1 else lines[0][:150]
            raise WeightsError(f"{source} holds the weights of another network than {self.name}: {text}") from None

    def _prepared(self, cache: Path, form: Form) -> Path | None:
        """The first published file in the cache that can be run in this form, checked against its recorded SHA-256."""
        for published in self.published_in(form):
            path = cache / published.file
            if path.exists():
                check(path)
                return path
        return None

    def _digest(self, source: Path | None, form: Form) -> str:
        """A hash of all that the export is made from: the exporter, our code, and the weights or their seed."""
        from drumfire.sut.models.weights import forms

        try:
            digest = hashlib.sha256(forms.exporter(form).encode())
        except PackageNotFoundError as error:
            raise self._missing(error.name) from None
        for code in self._code():
            digest.update(code.read_bytes())
        if source is None:
            return f"{SYNTHETIC_MARK}-{digest.hexdigest()[:12]}"
        try:
            digest.update(source.read_bytes())
        except OSError as error:
            raise WeightsError(f"cannot read {source}: {error.strerror or error}") from None
        return digest.hexdigest()[:12]

    def _code(self) -> list[Path]:
        """The files of code that an export depends on."""
        here, networks = Path(__file__), Path(__file__).parents[1] / "networks"
        exporters = sorted(here.parent.glob("*_export.py"))
        return [here, Path(inspect.getfile(type(self))), *exporters, *sorted(networks.glob("*.py"))]

    def _missing(self, package: str | None) -> MissingExtra:
        return missing_extra(self.name, package, self.extra)


def _spread(network: nn.Module) -> None:
    """Draw weights that keep the signal's size from layer to layer; with torch's own it fades to a constant."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
