"""The reference's configuration files (mlperf.conf, user.conf, audit.config): their grammar and what their keys set.

The reference's oddities are kept on purpose: ``k=v`` is silently ignored, ``k= v`` and a trailing comment are errors,
an integer ``1e3`` is 1, and one error voids the whole file.
"""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import check_file
from drumfire.loadgen.mlperf_conf import built_in_values
from drumfire.loadgen.rounds import DEFAULT_ROUND
from drumfire.loadgen.settings import Mode, TestSettings

_UINT64 = 1 << 64
_MS = 1_000_000  # ns
_MOST_NAMED = 8
"""Lines in an error."""

# What C's strtoull(base 0) and strtod accept at the start of a word.
_INTEGER = re.compile(r"([+-]?)(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))")
_DOUBLE = re.compile(
    r"[+-]?(?:inf(?:inity)?|nan(?:\([0-9a-z_]*\))?"
    r"|0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p[+-]?[0-9]+)?"
    r"|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)",
    re.IGNORECASE,
)


class Value(NamedTuple):
    """A value as either type that a key may need: an unsigned 64-bit integer (from a prefix) and a double."""

    integer: int
    double: float


class ConfigError(UserError, ValueError):
    """A file that cannot be read, or that the grammar refuses.  The text names the first line and what to write."""

    def __init__(self, text: str, logged: Sequence[str]) -> None:
        """``logged``: what the reference logs, an entry for each refused line."""
        super().__init__(text)
        self.logged = logged


def read_text(path: Path | str) -> str:
    """A configuration file's text, without a byte order mark.  Raises ``OSError`` or ``UserError``."""
    check_file(Path(path), "config file")
    return Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")


def split(line: str) -> list[str]:
    """The words of a line."""
    return re.findall(r"[^ \t\r\v\f]+", line)


def parse(text: str) -> dict[str, Value]:
    """Parse a configuration file's text.  Raises ``ConfigError`` for lines that the grammar refuses, all at once."""
    values: dict[str, Value] = {}
    refused: dict[int, str] = {}
    logged: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        key, *rest = split(line) or [""]
        if not key or key == "#" or not rest or rest[0] == "#":
            continue
        if rest[0] != "=":
            refused[number] = f"expected 'key = value' with spaces around '=', found {line.strip()!r}"
            logged.append(f"expected 'key=value', line={number}")
            continue
        for word in rest[1:]:  # the last value wins
            value = _number(word)
            if value is None:
                refused[number] = f"{word!r} is not a number (a comment must be on a line of its own, after '# ')"
                logged.append(f"value needs to be integer or double, line={number}")
                break
            values[key] = value
    if refused:
        first, *others = refused
        raise ConfigError(f"line {first}: {refused[first]}{_so_are(others)}", logged)
    return values


def _so_are(others: Sequence[int]) -> str:
    """The numbers of further lines that are refused."""
    if len(others) < 2:
        return "".join(f"; line {number} is refused too" for number in others)
    *shown, last = others if len(others) <= _MOST_NAMED else (*others[: _MOST_NAMED - 1], "more")
    return f"; lines {', '.join(map(str, shown))} and {last} are refused too"


def _number(word: str) -> Value | None:
    integer_match, double_match = _INTEGER.match(word), _DOUBLE.match(word)
    whole = [match for match in (integer_match, double_match) if match is not None and match.end() == len(word)]
    if not whole:
        return None
    return Value(_integer(integer_match), _double(double_match.group()) if double_match else 0.0)


def _integer(match: re.Match[str] | None) -> int:
    if match is None:
        return 0
    sign, hexadecimal, octal, decimal = match.groups()
    if hexadecimal is not None:
        magnitude = int(hexadecimal, 16)
    else:
        # More digits than 2^64 has change nothing, and Python refuses thousands of them.
        magnitude = int(decimal[:21]) if decimal is not None else int(octal or "0", 8)
    magnitude = min(magnitude, _UINT64 - 1)
    return -magnitude % _UINT64 if sign == "-" else magnitude


def _double(text: str) -> float:
    lowered = text.lower()
    if "nan" in lowered:
        return math.nan
    if "0x" not in lowered:
        return float(lowered)
    try:
        return float.fromhex(lowered)
    except OverflowError:
        return -math.inf if lowered.startswith("-") else math.inf


@dataclass
class _Lookup:
    """Finds values for one model: by key ``m.s.f``, else ``*.s.f``, else ``m.*.f``, else ``*.*.f``."""

    values: Mapping[str, Value]
    model: str

    def find(self, scenario: str, field: str) -> Value | None:
        for key in (f"{self.model}.{scenario}", f"*.{scenario}", f"{self.model}.*", "*.*"):
            value = self.values.get(f"{key}.{field}")
            if value is not None:
                return value
        return None


def apply(
    settings: TestSettings, values: Mapping[str, Value], model: str, scenario: str, *, built_in: bool = False
) -> list[str]:
    """Write the values for this model and scenario into ``settings``; returns errors for the log.

    Fields that belong to a single scenario are read under its name, whatever ``scenario`` is.  Seeds and the
    accuracy-log probability only count in the ``built_in`` values.
    """
    lookup = _Lookup(values, model)
    errors: list[str] = []

    def integer(under: str, field: str, name: str, unit: int = 1) -> None:
        if (value := lookup.find(under, field)) is not None:
            setattr(settings, name, value.integer * unit % _UINT64)

    def double(under: str, field: str, name: str, unit: float = 1.0) -> None:
        if (value := lookup.find(under, field)) is not None:
            setattr(settings, name, value.double * unit)

    def flag(under: str, field: str, name: str, *, only_one: bool) -> None:
        if (value := lookup.find(under, field)) is not None:
            setattr(settings, name, value.integer == 1 if only_one else value.integer != 0)

    if (mode := lookup.find(scenario, "mode")) is not None:
        if mode.integer in list(Mode):
            settings.mode = Mode(mode.integer)
        else:
            errors.append("Invalid value passed to Mode key in config.")

    if built_in:
        for name in ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"):
            integer(scenario, name, name)
            integer(scenario, f"test05_{name}", f"test05_{name}")
        double(scenario, "accuracy_log_probability", "accuracy_log_probability", 0.01)
        flag(scenario, "test05", "test05", only_one=True)

    flag(scenario, "use_token_latencies", "use_token_latencies", only_one=True)
    if settings.use_token_latencies:
        integer("Server", "ttft_latency", "ttft_latency", _MS)
        integer("Server", "tpot_latency", "tpot_latency", _MS)
    flag(scenario, "infer_token_latencies", "infer_token_latencies", only_one=True)
    if settings.infer_token_latencies:
        integer(scenario, "token_latency_scaling_factor", "token_latency_scaling_factor")

    for name in (
        "performance_issue_same_index",
        "performance_sample_count_override",
        "accuracy_sample_count_override",
        "min_query_count",
        "max_query_count",
        "accuracy_log_rng_seed",
        "accuracy_log_sampling_target",
    ):
        integer(scenario, name, name)
    integer(scenario, "min_duration", "min_duration_ms")
    integer(scenario, "max_duration", "max_duration_ms")
    for name in ("performance_issue_unique", "performance_issue_same", "print_timestamps"):
        flag(scenario, name, name, only_one=False)
    flag(scenario, "sample_concatenate_permutation", "sample_concatenate_permutation", only_one=True)

    percent = "target_latency_percentile"
    double("SingleStream", percent, "single_stream_target_latency_percentile", 0.01)
    double("MultiStream", percent, "multi_stream_target_latency_percentile", 0.01)
    double("Server", percent, "server_target_latency_percentile", 0.01)
    double("SingleStream", "target_latency", "single_stream_expected_latency_ns", float(_MS))
    double("MultiStream", "target_latency", "multi_stream_expected_latency_ns", float(_MS))
    integer("Server", "target_latency", "server_target_latency_ns", _MS)
    integer("MultiStream", "samples_per_query", "multi_stream_samples_per_query")
    double("Server", "target_qps", "server_target_qps")
    double("Offline", "target_qps", "offline_expected_qps")
    flag("Server", "coalesce_queries", "server_coalesce_queries", only_one=False)
    if (limit := lookup.find("Server", "max_async_queries")) is not None:
        cut = limit.integer & 0xFFFFFFFF  # the reference passes it through a 32-bit int
        settings.server_max_async_queries = (cut - (1 << 32) if cut >= 1 << 31 else cut) % _UINT64
    return errors


class ConfigReader:
    """Applies configuration files in the reference's order of precedence.

    Before a reader's first user.conf, it applies the built-in values; any further user.conf is an error in the log.
    (In the reference, the process remembers the first; here, this object does.)
    """

    USER, BUILT_IN, FILE = 1, 0, 2

    def __init__(self, mlperf_round: str = DEFAULT_ROUND, further: Mapping[str, float] | None = None) -> None:
        """``further``: values to add to the built-in ones, by key (``model.scenario.field``), in the files' units."""
        self._built_in = {
            key: Value(int(number), float(number))
            for key, number in {**built_in_values(mlperf_round), **(further or {})}.items()
        }
        self.errors: list[str] = []
        """Errors for the next test's detail log, in the reference's words."""
        self.refused: ConfigError | None = None
        """Why the last file was refused, for people."""
        self._user_files = 0

    def from_config(
        self, settings: TestSettings, path: str | Path | None, model: str, scenario: str, conf_type: int = USER
    ) -> int:
        """Apply a file.  As in the reference, returns 0, -2 (no such file) or -22 (refused, and nothing applied)."""
        if conf_type == self.USER:
            self._user_files += 1
            if self._user_files > 1:
                self.errors.append("Multiple conf files are used. This is not valid for official submission.")
        if conf_type == self.BUILT_IN or (conf_type == self.USER and self._user_files == 1):
            self.errors += apply(settings, self._built_in, model, scenario, built_in=True)
            if conf_type == self.BUILT_IN or path is None:
                return 0
        assert path is not None
        status, self.refused = -errno.ENOENT, None
        try:
            text = read_text(path)
            status = -errno.EINVAL
            values = parse(text)
        except ConfigError as error:
            self.refused = ConfigError(f"{path}: {error}", error.logged)
        except (UserError, OSError) as error:
            why = getattr(error, "strerror", None)
            text = f"cannot read config file {path}: {why}" if why else str(error)
            self.refused = ConfigError(text, [f"can't open file {path}"])
        if self.refused is not None:
            self.errors += self.refused.logged
            return status
        self.errors += apply(settings, values, model, scenario)
        return 0
