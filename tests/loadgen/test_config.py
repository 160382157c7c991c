"""The configuration reader against the reference's answers, and its grammar against random text."""

import json
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


def test_round_selects_seeds() -> None:
    settings = TestSettings()
    ConfigReader("v2.1").from_config(settings, None, "digits", "Server")
    assert settings.qsl_rng_seed == 14284205019438841327


@pytest.mark.parametrize(
    ("text", "mend"),
    [("a.b.c = 7 # x\n", "line 1: '#' is not a number"), ("\na.b.c= 7", "line 2: expected 'key = value' with spaces")],
)
def test_errors_name_line_and_mend(text: str, mend: str) -> None:
    with pytest.raises(ConfigError, match=mend):
        parse(text)


@given(st.text(alphabet="ab.*#= \t\r\n0x1e9+-.infa", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        values = parse(text)
    except ConfigError as error:
        values, told = {}, str(error)
        assert re.fullmatch(r"line \d+: .+", told)
    assert all(0 <= value.integer < 2**64 and isinstance(value.double, float) for value in values.values())
