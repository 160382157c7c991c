"""Whole logs beside the reference's, over random settings, configuration files and tokens.

Each case runs on the reference and on the drop-in; and our engine tells the reference's run again from its own times,
so that figures are compared digit by digit.  ``EXCEPTIONS`` are all that may differ.
DRUMFIRE_LOG_CASES=first:last in the environment chooses the cases; a failure names its own.
"""

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.loadgen.compat.test_against_reference import HERE, process
from tests.support.replayed_run import told_again
from tests.support.traffic_cases import Case, log_case

pytestmark = [
    pytest.mark.reference,
    pytest.mark.skipif(
        find_spec("mlperf_loadgen") is None, reason="the reference is not here: pip install mlcommons_loadgen"
    ),
]

QUICK = 4
FIRST, LAST = map(int, os.environ.get("DRUMFIRE_LOG_CASES", "0:30").split(":"))
SEEDS = [pytest.param(seed, marks=() if seed < QUICK else pytest.mark.slow) for seed in range(FIRST, LAST)]

EXCEPTIONS = {
    "which program": r"loadgen_(version|build_date_\w+|git_\w+|file_sha1)",
    "when": r"test_datetime|power_(begin|end)|get_sut_name_duration_ns",
    "the reference's own logger": r"logger_\w+",
}
"""Keys of the detail log whose values may differ; of the metadata, only is_error and is_warning are compared."""
_EXCEPTED = re.compile("|".join(EXCEPTIONS.values()))
OF_ITS_LOGGER = ("Logging allocation detected", "PerfClock and system_clock differ", "CAS failed")
"""Entries on the reference's logger and clock: ours has neither."""
FROM_THE_START = re.compile(
    r"result_qps_with_loadgen_overhead|result_token_throughput_with_loadgen_overhead|result_completed_tokens_per_second"
)
"""In a closed loop these divide by a time from the start, which the reference does not tell to better than a us."""
NOT_A_NUMBER = re.compile(r"(?<=[ :])-?(nan|inf)\b")
"""The reference writes these, which are no JSON; ours is 0."""
IMPOSSIBLE_TOKENS = re.compile(
    r"result_(first_token|time_(per|to)_output_token|validity|invalid_reason|perf_constr)\w*|early_stopping\w*"
)
"""Where a sample has no first token, or fewer than two tokens: the reference's figures of tokens come from negative and
undefined times, and its verdict from those; ours is INVALID.
"""
TIMED = re.compile(
    r"result_(?!validity|perf_constraints|min_(duration|queries)_met|query_count|overlatency|invalid)\w|early_stopping_(latency|\w*result)"
)
"""What time alone decides, for two runs."""


def entries(text: str) -> list[tuple[str, Any, bool, bool]]:
    """Key, value (None where excepted), and whether it is an error or a warning."""
    found = []
    for line in text.splitlines():
        entry = json.loads(NOT_A_NUMBER.sub("0", line.removeprefix(":::MLLOG ")))
        if not str(entry["value"]).startswith(OF_ITS_LOGGER):
            value = None if _EXCEPTED.fullmatch(entry["key"]) else entry["value"]
            found.append((entry["key"], value, entry["metadata"]["is_error"], entry["metadata"]["is_warning"]))
    return found


def differences(theirs: str, ours: str, masked: re.Pattern[str] | None, *, closed: bool) -> list[Any]:
    """Where two detail logs differ, entry by entry; the values of ``masked`` keys are of one type."""
    both = [entries(theirs), entries(ours)]
    if masked is IMPOSSIBLE_TOKENS:  # these come and go with the verdict
        both = [[entry for entry in one if entry[0] != "result_invalid_reason"] for one in both]
    if closed:  # also from the start
        both = [[(key, _without_duration(value), *flags) for key, value, *flags in one] for one in both]
    found: list[Any] = [] if len(both[0]) == len(both[1]) else [[len(one) for one in both]]
    few = next((value for key, value, *_ in both[0] if key == "result_query_count"), 0) < 40
    for their, our in zip(*both, strict=False):
        near = closed and FROM_THE_START.fullmatch(their[0])
        if masked is not None and masked.match(their[0]):
            same = their[0] == our[0] and isinstance(their[1], str) == isinstance(our[1], str)
        elif near and their[0] == our[0]:
            # A few queries take so little time that a us matters.
            same = few or our[1] == pytest.approx(their[1], rel=1e-2)
        else:
            same = their == our
        if not same:
            found.append((their, our))
    return found


def _without_duration(value: Any) -> Any:
    return re.sub(r"duration_ns \d+", "duration_ns", value) if isinstance(value, str) else value


def plain_summary(text: str, warnings: int) -> str:
    """Without the reference's warnings of its own logger."""
    counted = f"{warnings} warning{'s'[: warnings != 1]} encountered. See detailed log."
    text = re.sub(r"\d+ warnings? encountered.*", counted if warnings else "No warnings encountered during test.", text)
    return NOT_A_NUMBER.sub("0.00", text)


def numbers_masked(text: str) -> str:
    """The head of a summary without its numbers; the parameters as they are."""
    head, line, parameters = text.partition("Test Parameters Used")
    return re.sub(r"[0-9.]+(e[+-]?[0-9]+)?", "#", head) + line + parameters


def is_impossible(case: Case) -> bool:
    tokens = case["settings"]["use_token_latencies"]
    return tokens and ("without_first" in case or min(case.get("token_counts", [2])) < 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_logs_are_the_reference_s(seed: int, tmp_path: Path) -> None:
    case = log_case(seed)
    closed = case["settings"]["scenario"] in ("SingleStream", "MultiStream")
    for _ in range(6):
        left = files_of("reference", {**case, "trace": True})
        again, times = told_again(case, left["trace"], tmp_path)
        if errors_before(left["detail"]) >= errors_before(again["detail"]):
            break  # on a busy machine, the reference sometimes writes these to standard error and forgets them
    spoiled = is_impossible(case)
    masked = IMPOSSIBLE_TOKENS if spoiled else None
    assert differences(left["detail"], again["detail"], masked, closed=closed) == [], case
    assert left["accuracy"] == again["accuracy"], case
    warnings = sum(is_warning for *_, is_warning in entries(again["detail"]))
    theirs, ours = plain_summary(left["summary"], warnings), again["summary"]
    if spoiled:
        theirs, ours = (text.partition("Test Parameters Used")[2] for text in (theirs, ours))
    elif closed:
        theirs, ours = (re.sub(r"(w/ loadgen overhead +: )[\d.]+", r"\1", text) for text in (theirs, ours))
    assert ours == theirs, case
    in_trace = re.findall(r'"sample_seq":(\d+),"query_seq":(\d+),"sample_idx":(\d+)', again["trace"])
    assert sorted((int(row), int(query), int(index)) for row, query, index in in_trace) == sorted(
        (row, query, index) for row, (_, query, index, *_) in times.rows.items()
    )
    # Which queries are coalesced is a matter of time, and so is how far these go past a limit.
    coalesced = '"requested_server_coalesce_queries", "value": true' in left["detail"]
    if case["sure"] and not spoiled and not coalesced:
        drop_in = files_of("ours", case)
        assert differences(left["detail"], drop_in["detail"], TIMED, closed=closed) == [], case
        assert left["accuracy"] == drop_in["accuracy"], case
        masked_texts = [numbers_masked(text) for text in (plain_summary(left["summary"], warnings), drop_in["summary"])]
        assert masked_texts[0] == masked_texts[1], case


def errors_before(detail: str) -> int:
    """How many errors are from before the test."""
    return [key for key, *_ in entries(detail)].index("loadgen_version")


def files_of(module: str, case: Case) -> dict[str, str]:
    document = process(module, HERE / "logged_run.py", given=json.dumps(case)).strip().rpartition("\n")[2]
    return {re.sub(r"mlperf_log_|\..*", "", name): text for name, text in json.loads(document)["files"].items()}


def test_a_difference_is_told() -> None:
    """The control."""
    line = ':::MLLOG {"key": "%s", "value": %s, "metadata": {"is_error": false, "is_warning": false}}\n'
    log = line % ("num_errors", 0) + line % ("result_validity", '"VALID"')
    assert differences(log, log, TIMED, closed=False) == []
    for other in (log.replace("0", "1"), log.replace("VALID", "INVALID"), log.replace("num", "no"), log + log):
        assert differences(log, other, TIMED, closed=False) != []
    assert differences(line % ("test_datetime", "1"), line % ("test_datetime", "2"), None, closed=False) == []
