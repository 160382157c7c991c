"""Errors that the user can fix: the command line shows each as one line, without a traceback."""

from __future__ import annotations


class UsageError(ValueError):
    """Options that cannot be used.  The text is one line and names the fix."""


def expected() -> tuple[type[Exception], ...]:
    """The errors to show as one line.  Call it only to handle an error: their modules take long to import."""
    from drumfire.loadgen import SettingsError
    from drumfire.loadgen.directory import OutputError
    from drumfire.sut import models
    from drumfire.sut.data import DataError
    from drumfire.sut.data.inputs import InputError
    from drumfire.sut.fetch import FetchError
    from drumfire.sut.kserve.errors import ServerError
    from drumfire.sut.local.backends import BackendError
    from drumfire.sut.models.weights.quantization import QuantizeError
    from drumfire.sut.remote.triton_local.environment import LocalTritonError

    return (
        UsageError, SettingsError, OutputError, BackendError, ServerError, InputError, LocalTritonError, QuantizeError,
        models.UnknownModel, models.MissingExtra, models.WeightsError, DataError, FetchError,
    )  # fmt: skip
