"""The configuration reader against the reference's answers, and its grammar against random text."""

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen.config import ConfigError, ConfigReader, parse
from drumfire.loadgen.settings import TestSettings

GOLDEN = Path(__file__).parents[1] / "golden"
PROBES = json.loads((GOLDEN / "config_probe.json").read_text())["entries"]


def shown(value: object) -> object:
    return getattr(value, "name", value)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe["title"])
def test_reads_as_the_reference_does(probe: dict, tmp_path: Path) -> None:
    file = tmp_path / "user.conf"
    file.write_bytes(probe["file_text"].encode())
    settings, reader = TestSettings(**probe["preset"]), ConfigReader()
    codes = []
    for path, model, scenario, *conf_type in probe["calls"]:
        codes.append(reader.from_config(settings, file if path == "<file>" else path, model, scenario, *conf_type))
    changed = {k: shown(v) for k, v in vars(settings).items() if v != getattr(TestSettings(), k)}
    assert codes == probe["return_codes"]
    assert changed == probe["fields_changed_from_default"]


def test_all_probes_are_there() -> None:
    assert len(PROBES) == 125


@pytest.mark.parametrize(
    ("mlperf_round", "seeds", "test05_qsl"),
    [
        ("v2.1", (14284205019438841327, 4163916728725999944, 299063814864929621), 313588358309856706),
        ("v5.0", (6023615788873153749, 15036839855038426416, 9933818062894767841), 7975553102935885558),
        ("v5.1", (1780908523862526354, 14771362308971278857, 18209322760996052031), 7975553102935885558),
        ("v6.0", (2465351861681999779, 14276810075590677512, 3936089224930324775), 7975553102935885558),
        ("v6.1", (2085463073848966840, 2747215439041700203, 16159082839903944936), 7975553102935885558),
    ],
)
def test_round_selects_seeds(mlperf_round: str, seeds: tuple[int, int, int], test05_qsl: int) -> None:
    """Those that the official checker demands, from its own table."""
    settings = TestSettings()
    ConfigReader(mlperf_round).from_config(settings, None, "digits", "Server")
    assert (settings.qsl_rng_seed, settings.sample_index_rng_seed, settings.schedule_rng_seed) == seeds
    assert settings.test05_qsl_rng_seed == test05_qsl


@pytest.mark.parametrize(
    ("text", "mend"),
    [("a.b.c = 7 # x\n", "line 1: '#' is not a number"), ("\na.b.c= 7", "line 2: expected 'key = value' with spaces")],
)
def test_errors_name_line_and_mend(text: str, mend: str) -> None:
    with pytest.raises(ConfigError, match=mend):
        parse(text)


def test_every_refused_line_is_an_error_in_the_reference_s_words(tmp_path: Path) -> None:
    """As the reference logged the same files."""
    bad, odd = tmp_path / "bad.conf", tmp_path / "odd.conf"
    bad.write_text("a.b.c = 7 # x\n# fine\nk= 3\n*.*.min_query_count = 5\nq : 2\nz = 1 2 y 3 n\n")
    odd.write_text("*.*.mode = 9\n*.*.min_query_count = 5\n")
    settings, reader = TestSettings(), ConfigReader()
    assert reader.from_config(settings, bad, "m", "Offline") == -22
    assert settings.min_query_count != 5
    assert str(reader.refused) == (
        f"{bad}: line 1: '#' is not a number (a comment must be on a line of its own, after '# '); lines 3, 5 "
        "and 6 are refused too"
    )
    assert reader.from_config(settings, odd, "m", "Offline") == 0
    assert reader.refused is None
    assert reader.from_config(settings, tmp_path / "none", "m", "Offline", ConfigReader.FILE) == -2
    assert reader.errors == [
        "value needs to be integer or double, line=1",
        "expected 'key=value', line=3",
        "expected 'key=value', line=5",
        "value needs to be integer or double, line=6",
        "Multiple conf files are used. This is not valid for official submission.",
        "Invalid value passed to Mode key in config.",
        f"can't open file {tmp_path / 'none'}",
    ]


@given(st.text(alphabet="ab.*#= \t\r\n0x1e9+-.infa", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        values = parse(text)
    except ConfigError as error:
        values, told, lines = {}, str(error), [logged.rpartition("=")[2] for logged in error.logged]
        assert re.fullmatch(r"line \d+: .+", told)
        assert len(set(lines)) == len(lines) > 0
    assert all(0 <= value.integer < 2**64 and isinstance(value.double, float) for value in values.values())


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("1" * 5000, (2**64 - 1, math.inf)),
        ("-" + "1" * 5000, (1, -math.inf)),
        ("0x" + "f" * 300, (2**64 - 1, math.inf)),
        ("-0x1p99999", (2**64 - 1, -math.inf)),
        ("0x1p" + "9" * 5000, (1, math.inf)),
        ("0x1p-" + "9" * 5000, (1, 0.0)),
        ("0" * 5000 + "8", (0, 8.0)),
    ],
    ids=lambda one: str(one)[:9],
)
def test_numbers_beyond_any_type_are_the_largest_as_in_c(word: str, value: tuple[int, float]) -> None:
    assert parse(f"*.*.x = {word}\n") == {"*.*.x": value}
