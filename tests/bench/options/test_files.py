"""Options in a TOML file: what --print-config writes is what --config reads, and the command line wins."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench.options import files, values
from tests.support import options
from tests.support.command import Done, here, one_line_error
from tests.support.command import options as options_of
from tests.support.options import Case


@pytest.mark.parametrize("case", options.cases(), ids=str)
def test_every_command_prints_a_file_that_holds_the_same_options(case: Case, tmp_path: Path) -> None:
    line = options.words(case)
    done = here(*options.words(case, "--print-config"))
    assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "options.toml"
    file.write_text(done.stdout, encoding="utf-8")
    assert values.build(case.command.options, files.read(file), line) == options_of(*line)
    assert here(*case.path, "--config", file, "--print-config").stdout == done.stdout


@given(case=st.sampled_from(options.different_cases()), data=st.data())
def test_any_values_come_back_from_a_file(
    case: Case, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    given = data.draw(options.given(case))
    built = values.build(case.command.options, given)
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(files.text(built, given), encoding="utf-8")
    assert values.build(case.command.options, files.read(file)) == built


def printed(tmp_path: Path, content: str | bytes, *words: str) -> Done:
    """The options of a run whose file is this."""
    file = tmp_path / "run.toml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return here("run", "--config", file, *words, "--print-config")


def test_the_command_line_wins(tmp_path: Path) -> None:
    content = 'backend = "null"\nmodel = "digits"\nqps = 5\nscenario = "offline"\n'
    done = printed(tmp_path, content, "--qps", "7", "--count", "3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"qps = 7.0", "count = 3", 'scenario = "Offline"', 'backend = "null"'} <= set(lines)
    assert 'backend = "onnxruntime"' in printed(tmp_path, content, "onnxruntime").stdout.splitlines()


def test_names_are_written_with_either_dash(tmp_path: Path) -> None:
    for name in ("samples-per-query", "samples_per_query"):
        done = printed(tmp_path, f"{name} = 4\n", "null", "digits")
        assert "samples-per-query = 4" in done.stdout.splitlines()


def test_options_that_are_not_given_are_comments(tmp_path: Path) -> None:
    done = printed(tmp_path, "", "null", "digits")
    given = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    assert given == ['backend = "null"', 'model = "digits"']
    assert "# patience = 120.0" in done.stdout.splitlines()
    assert "# qps =" in done.stdout.splitlines()


def test_the_file_has_the_groups_of_the_help_page_and_an_empty_line_only_between_them(tmp_path: Path) -> None:
    first, *others = printed(tmp_path, "", "null", "digits").stdout.split("\n\n")
    assert first.startswith("## options\n# what computes: ")
    assert {"## traffic", "## result"} <= {group.partition("\n")[0] for group in others}
    assert all(len(group.splitlines()) > 1 for group in others)


def test_a_mark_of_byte_order_is_skipped(tmp_path: Path) -> None:
    done = printed(tmp_path, b'\xef\xbb\xbfbackend = "null"\nmodel = "digits"\n')
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("x = " + "[" * 100_000, "is nested too deep"),
        ("warmup = '5 s'", "--warmup: '5 s' is neither a number of queries"),
        ("qps = ", "is not TOML: Invalid value (at end of document)"),
        ("qps = 3\nqps = 4", "is not TOML: Cannot overwrite a value"),
        (b"model = '\xff'", "is not TOML: 'utf-8' codec"),
        ("max-latency = 3\nmax_latency = 3", "max_latency is there twice, with - and with _: leave one out"),
        ("qps = true", "--qps: True is not a number"),
        ("qps = '3 a second'", "--qps: '3 a second' is not a number"),
        ("qps = 1e-12", "--qps: must be at least 0.000001"),
        ("qps = nan", "--qps: must be at least 0.000001, not nan"),
        ("qps = [3]", "--qps: [3] is not a number"),
        ("time = 2020-01-01", "--time: datetime.date(2020, 1, 1) is not a number"),
        ("json = 1", "--json: must be true or false, not 1"),
        ("model = 3", "MODEL: must be text, not 3"),
        ("output = ['a']", "--output: must be text, not ['a']"),
        ("scenario = 'Sever'", "--scenario: unknown 'Sever' (did you mean Server?)"),
        ("qsp = 3", "unknown option --qsp (did you mean --qps?)"),
        ("words = ['a']", "unknown option --words"),
        ("[traffic]\nqps = 3", "unknown option --traffic"),
        ("config = 'other.toml'", "unknown option --config"),
        ("url = ['grpc://h:1']", "--url has no effect with null, only with triton, http: leave it out"),
    ],
)
def test_a_file_that_is_wrong_gets_one_line(content: str | bytes, says: str, tmp_path: Path) -> None:
    one_line_error(printed(tmp_path, content, "null", *(() if "model" in str(content) else ("digits",))), says)


def test_a_single_text_is_a_list_of_one(tmp_path: Path) -> None:
    done = printed(tmp_path, "url = 'grpc://h:1'", "triton", "m")
    assert 'url = ["grpc://h:1"]' in done.stdout.splitlines()


@pytest.mark.parametrize("option", ["output", "dataset-path", "user-conf"])
def test_a_path_that_no_file_can_hold_is_refused(option: str) -> None:
    done = here("run", "null", "digits", f"--{option}", "a\udcff", "--print-config")
    one_line_error(done, f"--{option}: ", "is not UTF-8, as a TOML file must be")


@pytest.mark.parametrize(
    ("option", "text"), [("header", "a: \udcff"), ("input-data", "\udcff"), ("warmup", "\udcff"), ("warmup", "5 s")]
)
def test_a_text_that_is_wrong_is_refused_before_it_is_printed(option: str, text: str) -> None:
    done = here("run", "http", "x", "--url", "http://h", f"--{option}", text, "--print-config")
    one_line_error(done, f"drumfire run: --{option}: ", "(see 'drumfire run --help')")


def test_a_second_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("qps = 3")
    done = here("run", "null", "digits", "--config", file, "--config", file)
    one_line_error(done, "--config is given twice: put all options into one file")


@pytest.mark.parametrize("name", ["none.toml", ".", "none/x.toml"])
def test_a_file_that_cannot_be_read_gets_one_line(name: str, tmp_path: Path) -> None:
    one_line_error(here("run", "null", "digits", "--config", tmp_path / name), "--config", "cannot be read: ")
