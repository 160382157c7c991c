"""Weights that an installed package brings: found without importing the package, and known by their hash."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

from drumfire.loadgen import installation
from drumfire.sut.models.model import WeightsError, missing_extra


def folder(model: str, package: str, extra: str | None) -> Path:
    """The folder of a package.  Raises ``MissingExtra``, which names the model and the pip extra."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise missing_extra(model, package, extra)
    return Path(spec.origin).parent


class InstalledFile(NamedTuple):
    """A file of a package's version."""

    package: str
    """The name that is imported."""
    path: str
    """Below the package's folder."""
    sha256: str

    def of(self, model: str, extra: str) -> Path:
        """The file.  Raises ``MissingExtra``, and ``WeightsError`` if another version has another file."""
        path = folder(model, self.package, extra) / self.path
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            found = error.strerror or type(error).__name__
        if found != self.sha256:
            raise WeightsError(f"{path} is not the file that {model} runs: {installation.command(extra)}")
        return path
