"""Words become values: positions anywhere between the options, beginnings of names, help for one kind or for all."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench import commands
from drumfire.bench.options import parser, values
from drumfire.loadgen.errors import UserError
from tests.support import options
from tests.support.command import here, one_line_error, paths
from tests.support.command import options as options_of
from tests.support.options import Case

RUN = commands.load("run")


@given(st.permutations([["onnxruntime"], ["digits"], ["gpu"], ["--qps", "5"], ["--json"], ["--threads=2"]]))
def test_positions_may_stand_between_options(parts: list[list[str]]) -> None:
    words = [part[0] for part in parts if len(part) == 1 and not part[0].startswith("-")]
    parsed = parser.parse(RUN, list(itertools.chain(*parts)))
    assert parsed.values == {
        "backend": words[0], "model": words[1], "device": words[2], "qps": "5", "json": True, "threads": "2",
    }  # fmt: skip


@pytest.mark.parametrize("case", options.cases(), ids=str)
def test_every_option_of_every_command_is_understood(case: Case) -> None:
    line = options.words(case)
    parsed = parser.parse(case.command, line[len(case.path) :])
    assert parsed.values.keys() == {one.name for one in case.declared}
    assert (parsed.config, parsed.print_config, parsed.help) == (None, False, False)
    options_of(*line)


def test_the_beginning_of_a_name_is_enough() -> None:
    assert parser.parse(RUN, ["null", "digits", "--scen", "Server"]).values["scenario"] == "Server"
    with pytest.raises(UserError, match=r"^ambiguous option: --max.*--max-latency"):
        parser.parse(RUN, ["null", "digits", "--max", "3"])


def test_an_option_with_and_without_a_value() -> None:
    words = ["run", "null", "digits", "--scenario", "Server"]
    assert options_of(*words, "--until-confident").traffic.until_confident == 0.0
    assert options_of(*words, "--until-confident", "5").traffic.until_confident == 5.0
    assert options_of(*words).traffic.until_confident is None


def test_an_option_that_is_repeated_has_several_values() -> None:
    run = options_of("run", "triton", "m", "--url", "grpc://a:1", "--header", "a: b", "--url", "grpc://b:1")
    assert (run.system.target.url, run.system.target.header) == (("grpc://a:1", "grpc://b:1"), ("a: b",))
    serve = options_of("serve", "null", "identity", "other", "--preferred-batchsize", "4,8")
    assert (serve.models, serve.batching.preferred_batchsize) == (("identity", "other"), (4, 8))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run"], "BACKEND and MODEL must be given"),
        (["run", "null"], "MODEL must be given"),
        (["run", "null", "digits", "cpu", "more"], "one word too many: 'more'"),
        (["run", "null", "digits", "--sceanrio", "Server"], "unknown option --sceanrio (did you mean --scenario?)"),
        (["run", "null", "digits", "--no-dashbord=1"], "unknown option --no-dashbord (did you mean --no-dashboard?)"),
        (["run", "null", "digits", "--qps"], "--qps: expected one argument"),
        (["run", "null", "digits", "--json=yes"], "--json: ignored explicit argument 'yes'"),
        (["run", "nul", "digits"], "BACKEND: unknown 'nul' (did you mean null?)"),
        (["run", "nul", "--help"], "BACKEND: unknown 'nul' (did you mean null?)"),
        (["run", "null", "digits", "--scenario", "ofline"], "--scenario: unknown 'ofline' (did you mean Offline?)"),
        (["prepare", "fake", "coc"], "KIND: unknown 'coc' (did you mean coco?)"),
        (["cluster", "down", "now"], "one word too many: 'now'"),
    ],
)
def test_words_that_are_not_understood_get_one_line(words: list[str], says: str) -> None:
    done = here(*words)
    one_line_error(done, says)
    path = next(path for path in paths() if path == words[: len(path)])
    assert done.stderr.startswith(f"drumfire {' '.join(path)}: {says}")
    assert done.stderr.endswith(f"(see 'drumfire {' '.join(path)} --help')\n")


def test_an_option_of_several_kinds_is_written_alike() -> None:
    """Words are taken apart before the kind is known."""
    for command in commands.everything().values():
        forms = defaultdict(set)
        for one, _ in values.of_all_kinds(command.options):
            forms[one.name].add((one.kind is bool, one.several, one.option.alone, one.option.separator))
        assert [name for name, found in forms.items() if len(found) > 1] == []


@pytest.mark.parametrize("path", paths(), ids=" ".join)
def test_help_shows_every_option(path: list[str]) -> None:
    done = here(*path, "--help")
    assert done.returncode == 0
    for one, _ in values.of_all_kinds(commands.load(" ".join(path)).options):
        assert one.written in done.stdout
    assert "--config" in done.stdout


def test_help_of_a_kind_shows_its_options_only() -> None:
    local, remote = here("run", "pytorch", "-h").stdout, here("run", "m", "-h", "--json").stderr
    assert "--compile" in local
    assert "--url" not in local
    assert "unknown 'm'" in remote
    remote = here("run", "TRITON", "--help").stdout
    assert "--url" in remote
    assert "--compile" not in remote
    assert remote.count("--max-batchsize") == 1
    assert "samples in a request" in remote
