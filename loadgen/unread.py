"""Lines of a configuration file that set nothing, or hardly what is meant, so that a person learns of them in time.

The values stay as the reference reads them: it takes such lines in silence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path

from drumfire.loadgen.config import ConfigError, Value, apply, parse, read_text, split
from drumfire.loadgen.errors import nearest, printable
from drumfire.loadgen.mlperf_conf import built_in_values
from drumfire.loadgen.settings import Scenario, TestSettings

_ANY = "*"
_MOST_NEAREST = 20
"""Notes that name the nearest key: it takes some 10 ms to find, and a file of another kind has thousands of lines."""
_LEAST_MS = 1000
"""A shorter duration looks like one in seconds; 600 s are the rules'."""


def unread(path: Path | str, model: str, option: str, *, mode: bool = False) -> list[str]:
    """A note for each line that sets nothing in any scenario of ``model``, or what seems to be in another unit.

    A note has the line's number, and the first ones the nearest key.  ``option``: how the file was given.  ``mode``:
    whether the key ``mode`` counts.  A line of another model is one for another run, unless no line of this file is
    for any model, as in an audit file (``model`` ``*``).  What can be read only once, such as a pipe, gets no notes.
    Raises ``OSError`` and ``ConfigError``.
    """
    if not Path(path).is_file():
        return []
    text = read_text(path)
    try:
        parse(text)
    except ConfigError as error:
        raise ConfigError(f"{option} {path}: {error}", error.logged) from None
    keys = _keys(model)
    fields = {key.rpartition(".")[2] for key in keys}
    notes: list[str] = []
    set_at: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        key, *rest = split(line) or [""]
        if not key or key.startswith("#"):
            continue
        near = nearest if len(notes) < _MOST_NEAREST else _nothing_near
        why = (
            _no_value(key, rest)
            or _no_effect(key, model, keys, fields, near)
            or _other_unit(key, line)
            or _cut(key, line, model)
        )
        if not why and not mode and key.endswith(".mode"):
            why = f"{key} has no effect: the mode is chosen with --accuracy or --submission"
        at = number
        if not why and key in set_at:
            at, why = set_at[key], f"{key} has no effect, as line {number} sets it again"
        if why:
            notes.append(f"{option} {path} line {at}: {printable(why)}")
        set_at[key] = number
    return notes


class _Asked(dict[str, Value]):
    """Remembers the keys that are looked up, and has none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_asked: set[str] = set()

    def get(self, key: str, default: object = None) -> None:  # type: ignore[override]
        self.keys_asked.add(key)


@functools.cache
def _keys(model: str) -> set[str]:
    """Every key that is looked up for the model, in any scenario."""
    asked = _Asked()
    for scenario in Scenario:
        apply(_settings(), asked, model, scenario.name)
    return asked.keys_asked


def _settings() -> TestSettings:
    """With those settings on without which some keys are not looked up."""
    return TestSettings(use_token_latencies=True, infer_token_latencies=True)


def _no_value(key: str, rest: list[str]) -> str | None:
    if "=" not in rest[:1]:
        return f"{key!r} sets nothing: write 'key = value' with spaces around '='"
    return None if rest[1:] else f"{key} has no value: write one after '='"


def _nothing_near(word: str, words: Iterable[str]) -> str:
    return ""


def _no_effect(
    key: str, model: str, keys: set[str], fields: set[str], near: Callable[[str, Iterable[str]], str]
) -> str | None:
    if key in keys:
        return None
    if key.count(".") < 2:
        found = near(key, keys) or near(key, fields).replace("mean ", "mean *.*.")
        return f"{key} is not MODEL.SCENARIO.SETTING{found}, and sets nothing"
    of_model, scenario, field = key.rsplit(".", 2)
    if scenario not in (_ANY, *Scenario.__members__):
        return f"there is no scenario {scenario!r}{near(scenario, Scenario.__members__)}, so it sets nothing"
    if field not in fields:
        if f"*.*.{field}" in built_in_values():
            return f"{field} has no effect in such a file: only the round sets it"
        return f"there is no setting {field!r}{near(field, fields)}, so it sets nothing"
    if f"{_ANY}.{scenario}.{field}" not in keys:
        places = [name for name in Scenario.__members__ if f"{_ANY}.{name}.{field}" in keys]
        return f"{field} has no effect in {scenario}, only in {' and '.join(places)}"
    if model == _ANY:
        return f"lines of a single model have no effect here: write *.{scenario}.{field}"
    if of_model not in {known.partition(".")[0] for known in built_in_values()} and (
        meant := nearest(of_model, [model])
    ):
        return f"{of_model!r} is not the model of this run{meant}, so it sets nothing"
    return None


def _cut(key: str, line: str, model: str) -> str | None:
    """Of a whole number, the reference reads only the digits: ``1e3`` is 1."""
    value = parse(line).get(key)
    if value is None or value.double == float(value.integer):
        return None
    cut = Value(value.integer, float(value.integer))
    if any(_applied(key, value, model, one) != _applied(key, cut, model, one) for one in Scenario):
        return None  # what it sets is no whole number
    word = line.split()[-1]
    return f"{word} is read as {value.integer}, as in the reference: write a whole number below 2^64, in digits"


def _other_unit(key: str, line: str) -> str | None:
    """A share that should be a percentage, or seconds that should be milliseconds."""
    value, field = parse(line).get(key), key.rpartition(".")[2]
    if value is None:
        return None
    if field == "target_latency_percentile" and 0 < value.double < 1:
        return f"{field} is in percent: write {value.double * 100:.9g} for {value.double:.9g} of the queries"
    bound = key.endswith(".Server.target_latency") or field in ("ttft_latency", "tpot_latency")
    least_ms = 1 if bound else _LEAST_MS if field in ("min_duration", "max_duration") else 0
    if 0 < value.double < least_ms:
        return f"{field} is in milliseconds: write {value.double * 1000:.9g} for {value.double:.9g} s"
    return None


def _applied(key: str, value: Value, model: str, scenario: Scenario) -> dict[str, object]:
    settings = _settings()
    apply(settings, {key: value}, model, scenario.name)
    return vars(settings)
