"""An option that can have no effect is refused, or a note says so; so is a number that no run can follow."""

from __future__ import annotations

from pathlib import Path

import pytest

from drumfire.bench.options.values import flag, ineffective, kinds, of_all_kinds
from drumfire.loadgen.errors import UserError
from tests.support.command import here, one_line_error, options, result_of
from tests.support.options import Case, cases, words
from tests.support.scripted_peer import Peer

DIGITS = ["run", "onnxruntime", "digits", "cpu"]
SHORT = ["--time", "0.01", "--count", "20", "--no-dashboard", "--json"]
TRITON = ["run", "triton", "m", "--url", "grpc://h:1"]


@pytest.mark.parametrize("case", [case for case in cases() if case.kind is not None], ids=str)
def test_options_of_another_kind_are_refused(case: Case) -> None:
    """Every option that some other kind has and this one has not, one by one."""
    own = {one.name for one in case.declared}
    every = of_all_kinds(case.command.options)
    others = {one.name: one for one, its_kinds in every if its_kinds and one.name not in own}
    needed = list(case.path)
    for one in case.declared:
        if one.option.position and one.default is not None:
            needed.append(case.kind or "" if one.name == case.by else one.choices[0] if one.choices else "digits")
    for name, one in others.items():
        have = [kind for each, its_kinds in every if each.name == name for kind in its_kinds]
        value = [] if one.kind is bool else [one.choices[0] if one.choices else "1"]
        with pytest.raises(UserError) as refused:
            options(*needed, flag(one.name), *value)
        assert str(refused.value) == (
            f"{flag(one.name)} has no effect with {case.kind}, only with {', '.join(have)}: leave it out"
        )


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--connections", 4),
        ("--header", "a:b"), ("--client", "tritonclient"), ("--shared-memory", "system"), ("--request-timeout", 1),
        ("--metrics-url", "http://h:1"), ("--url", "grpc://h:1"), ("--workers", 2), ("--model-version", 1),
    ],
)  # fmt: skip
def test_a_servers_options_are_refused_with_a_model_here(option: str, value: object) -> None:
    one_line_error(here(*DIGITS, option, value), f"{option} has no effect with onnxruntime, only with triton")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--precision", "fp16"), ("--compile", "default"), ("--threads", 3), ("--instances", 2),
        ("--weights", "/nonexistent"), ("--max-queue-delay", 3),
    ],
)  # fmt: skip
def test_a_models_options_are_refused_with_a_server(option: str, value: object) -> None:
    one_line_error(here(*TRITON, option, value), f"{option} has no effect with triton, only with ")


@pytest.mark.parametrize("option", ["--tls-ca", "--tls-cert"])
@pytest.mark.parametrize(("url", "secure"), [("grpc://h:1", "grpcs://"), ("HTTP://h:1", "https://")])
def test_options_of_tls_are_refused_without_tls(option: str, url: str, secure: str) -> None:
    done = here("run", "triton", "m", "--url", url, option, "/nonexistent")
    one_line_error(done, f"{option} has no effect on {url}: give {secure}, or leave it out")
    assert options("run", "triton", "m", "--url", url, "--url", "https://h", option, "x").system.target.url


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tls-key", "x"], "--tls-key has no effect without --tls-cert: leave it out"),
        (["--think-time", "3"], "--think-time has no effect without --loop: leave it out"),
        (["--on-host-loss", "abort"], "--on-host-loss has no effect without --workers or --hosts: leave it out"),
    ],
)
def test_an_option_without_the_one_it_needs_is_refused(words: list[str], says: str) -> None:
    one_line_error(here(*TRITON, *words), says)


def test_a_data_sets_folder_is_refused_without_a_data_set() -> None:
    with Peer("grpc") as peer:
        done = here("run", "triton", "echo", "--url", peer.url, "--dataset-path", "/nonexistent", *SHORT)
    one_line_error(done, "--dataset-path has no effect without a named data set: give --input-data, or leave it out")


@pytest.mark.parametrize(
    ("scenario", "option", "value", "only"),
    [
        ("SingleStream", "--qps", 1000, "Server and Offline"),
        ("MultiStream", "--qps", 1000, "Server and Offline"),
        ("SingleStream", "--samples-per-query", 3, "MultiStream"),
        ("Offline", "--samples-per-query", 3, "MultiStream"),
        ("SingleStream", "--max-latency", 3, "Server and MultiStream"),
        ("Offline", "--max-latency", 3, "Server and MultiStream"),
    ],
)
def test_an_option_of_another_scenario_is_noted(
    scenario: str, option: str, value: object, only: str, tmp_path: Path
) -> None:
    line = ["run", "null", "digits", "--scenario", scenario, option, value, "--output", tmp_path / "run", *SHORT]
    done = here(*line)
    result_of(done, done.returncode)
    assert f"note: {option} has no effect in {scenario}, only in {only}\n" in done.stderr


def test_streams_are_of_closed_loops() -> None:
    line = [*TRITON, "--workers", 2, "--independent-streams", "--scenario"]
    says = "--independent-streams has no effect in Server, only in SingleStream and MultiStream"
    assert ineffective(options(*line, "Server")) == [says]
    assert ineffective(options(*line, "SingleStream")) == []


def test_an_option_of_the_scenario_is_not_noted(tmp_path: Path) -> None:
    line = ["run", "null", "digits", "--scenario", "Server", "--qps", 1000, "--max-latency", 3]
    done = here(*line, "--output", tmp_path / "run", *SHORT)
    assert "no effect" not in done.stderr


@pytest.mark.parametrize(
    ("scenario", "words", "beside"),
    [
        ("SingleStream", ["--max-batchsize", 16], "in SingleStream"),
        ("SingleStream", ["--max-queue-delay", 5], "in SingleStream"),
        ("MultiStream", ["--max-queue-delay", 5], "in MultiStream"),
        ("Server", ["--max-queue-delay", 5, "--max-batchsize", 1], "with --max-batchsize 1"),
        ("MultiStream", ["--max-latency", 5], "in MultiStream without --find-peak-performance"),
        ("Server", ["--max-latency", 5, "--accuracy"], "with --accuracy"),
        ("Offline", ["--qps", 5, "--accuracy"], "in Offline with --accuracy"),
        ("SingleStream", ["--time", 5, "--accuracy"], "with --accuracy"),
        ("Server", ["--max-queue-delay", 5], None),
        ("MultiStream", ["--max-latency", 5, "--find-peak-performance"], None),
        ("Server", ["--qps", 5, "--accuracy"], None),
        ("Offline", ["--qps", 5, "--time", 1], None),
    ],
)
def test_an_option_without_effect_beside_others_is_noted(
    scenario: str, words: list[object], beside: str | None
) -> None:
    given = options("run", "onnxruntime", "digits", "--scenario", scenario, *words)
    assert ineffective(given) == ([] if beside is None else [f"{words[0]} has no effect {beside}"])


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--qps", "1e-12", "must be at least 0.000001"),
        ("--qps", "1e300", "must be at most 1,000,000,000"),
        ("--time", "1e300", "must be at most 1,000,000,000"),
        ("--time", "inf", "must be at most 1,000,000,000"),
        ("--max-latency", "1e300", "must be at most 1,000,000,000"),
        ("--max-queue-delay", "1e300", "must be at most 1,000,000"),
        ("--patience", "1e300", "must be at most 1,000,000,000"),
        ("--threads", "1000000", "must be at most 4,096"),
        ("--instances", "1000000", "must be at most 1,024"),
        ("--count", str(10**18), "must be at most 1,000,000,000"),
        ("--samples-per-query", str(10**18), "must be at most 1,000,000,000"),
        ("--output", "", "must not be empty"),
        ("--output", "x" * 300, "the name is too long for a file"),
        ("--output", "/tmp/" + "x/" * 3000, "the name is too long for a file"),
        ("--weights", "x" * 300, "the name is too long for a file"),
    ],
    ids=lambda value: value[:12],
)
def test_a_value_that_no_run_can_follow_is_refused(option: str, value: str, says: str) -> None:
    done = here(*DIGITS, "--scenario", "Server", option, value)
    one_line_error(done, f"drumfire run: {option}: {says}")


@pytest.mark.parametrize("words", [["--time", "1e9"], ["--samples-per-query", "1000000000", "--time", "1"]])
def test_a_run_that_needs_too_much_memory_is_refused(words: list[str], tmp_path: Path) -> None:
    done = here("run", "null", "digits", "--scenario", "MultiStream", "--output", tmp_path / "run", *words)
    one_line_error(done, "GB of memory")


@pytest.mark.parametrize("case", cases(), ids=str)
def test_no_number_is_without_bounds(case: Case) -> None:
    for one in case.declared:
        if one.kind in (int, float) and not one.several:
            for value in ("1e300", "-1e300", "inf", "nan", str(10**30), "x"):
                with pytest.raises(UserError, match=f"^{flag(one.name)}: "):
                    options(*words(case, f"{flag(one.name)}={value}"))


def test_kinds_of_a_run_are_its_backends() -> None:
    assert {"onnxruntime", "null", "triton"} <= set(kinds(cases()[0].command.options))
