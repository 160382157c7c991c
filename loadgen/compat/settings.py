"""A script's settings objects: what a test does, and where its logs go.

As in the reference, they check types and return live members: ``mode = settings.mode`` changes when ``settings.mode``
is set, and ``log_settings.log_output.outdir = ...`` works in place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from drumfire.loadgen import settings as engine
from drumfire.loadgen.compat.conversions import double, flag, signed_int, text, unsigned
from drumfire.loadgen.compat.enumerations import Enumeration, LoggingMode, TestMode, TestScenario, take_over
from drumfire.loadgen.config import ConfigReader

_Convert = Callable[[Any, str], Any]

config = ConfigReader()
"""One reader per process, as the reference applies its built-in values only with the process's first user.conf."""


class _Attribute:
    """A value of one type."""

    def __init__(self, name: str, convert: _Convert, initial: Any) -> None:
        self.name, self.convert, self._initial = name, convert, initial

    def initial(self) -> Any:
        return self._initial

    def __get__(self, struct: Struct | None, owner: type) -> Any:
        return self if struct is None else struct._values[self.name]

    def __set__(self, struct: Struct, value: Any) -> None:
        struct._values[self.name] = self.convert(value, f"{type(struct).__name__}.{self.name}")


class _Part(_Attribute):
    """An enumeration or a struct, which stays the same object and takes the value that is set."""

    def __init__(self, name: str, kind: type[Enumeration] | type[Struct], initial: Any = None) -> None:
        self.name, self.kind, self._initial = name, kind, initial

    def initial(self) -> Any:
        return self.kind() if issubclass(self.kind, Struct) else self.kind(self._initial)

    def __set__(self, struct: Struct, value: Any) -> None:
        if type(value) is not self.kind:
            wanted_for = f"{type(struct).__name__}.{self.name}"
            raise TypeError(f"{wanted_for}: {value!r} is not a {self.kind.__name__}")
        held = struct._values[self.name]
        if isinstance(value, Enumeration):
            take_over(held, value)
        else:
            held._values.update(value._values)


class Struct:
    """An object with a fixed set of attributes."""

    __slots__ = ("_values",)
    _attributes: ClassVar[list[_Attribute]] = []

    def __init__(self) -> None:
        self._values: dict[str, Any] = {attribute.name: attribute.initial() for attribute in self._attributes}

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


def _define(kind: type[Struct], *attributes: _Attribute) -> None:
    kind._attributes = list(attributes)
    for attribute in attributes:
        setattr(kind, attribute.name, attribute)


class TestSettings(Struct):
    __slots__ = ()
    __test__ = False  # pytest takes classes called Test* for tests

    def FromConfig(self, path: str, model: str, scenario: str, conf_type: int = 1) -> int:  # noqa: N802
        """Apply a configuration file; returns 0, -2 (no such file) or -22 (refused, and nothing applied)."""
        path, model, scenario = (text(word, "FromConfig(path, model, scenario)") for word in (path, model, scenario))
        changed = requested_by(self)
        status = config.from_config(changed, path, model, scenario, signed_int(conf_type, "FromConfig(conf_type)"))
        for name, held in self._values.items():
            value = getattr(changed, name)
            if isinstance(held, Enumeration):
                take_over(held, type(held)(value))
            else:
                self._values[name] = value
        return status


def requested_by(settings: TestSettings) -> engine.TestSettings:
    """The engine's settings.  Raises ``SettingsError`` for a scenario or mode without a name."""
    values = dict(settings._values)
    for name, kind in (("scenario", engine.Scenario), ("mode", engine.Mode)):
        if int(values[name]) not in list(kind):
            raise engine.SettingsError(f"{values[name]!r} is not a {name}: use one of {', '.join(kind.__members__)}")
        values[name] = kind(int(values[name]))
    return engine.TestSettings(**values)


class LogOutputSettings(Struct):
    __slots__ = ()

    outdir: str
    prefix: str
    suffix: str
    prefix_with_datetime: bool
    copy_detail_to_stdout: bool
    copy_summary_to_stdout: bool


class LogSettings(Struct):
    """The engine keeps its log in memory and writes it after the run, whatever the mode and the interval."""

    __slots__ = ()

    log_output: LogOutputSettings
    log_mode: LoggingMode
    log_mode_async_poll_interval_ms: int
    enable_trace: bool


_CONVERSIONS: dict[str, _Convert] = {"int": unsigned, "float": double, "bool": flag}


def _attribute(field: dataclasses.Field[Any]) -> _Attribute:
    if field.name == "scenario":
        return _Part(field.name, TestScenario, field.default)
    if field.name == "mode":
        return _Part(field.name, TestMode, field.default)
    if field.name == "server_find_peak_qps_decimals_of_precision":
        return _Attribute(field.name, signed_int, field.default)
    return _Attribute(field.name, _CONVERSIONS[str(field.type)], field.default)


_ITS = [field for field in dataclasses.fields(engine.TestSettings) if field.name not in engine.OF_CLOSED_LOOPS]
"""The reference's settings."""
_define(TestSettings, *map(_attribute, _ITS))
_define(
    LogOutputSettings,
    _Attribute("outdir", text, "."),
    _Attribute("prefix", text, "mlperf_log_"),
    _Attribute("suffix", text, ""),
    _Attribute("prefix_with_datetime", flag, False),
    _Attribute("copy_detail_to_stdout", flag, False),
    _Attribute("copy_summary_to_stdout", flag, False),
)
_define(
    LogSettings,
    _Part("log_output", LogOutputSettings),
    _Part("log_mode", LoggingMode, 0),
    _Attribute("log_mode_async_poll_interval_ms", unsigned, 1000),
    _Attribute("enable_trace", flag, True),
)
