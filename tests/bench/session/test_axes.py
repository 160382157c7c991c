"""What a sweep goes over: values of ranges and lists, and one line for what is no axis of a run."""

from __future__ import annotations

import pytest

from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.options.values import declared
from drumfire.bench.session import axes
from drumfire.loadgen.errors import UserError

OPTIONS = declared(RunOptions, "onnxruntime")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("qps=100:20000:log8", "100 213 454 969 2060 4400 9380 20000"),
        ("qps=100:800:lin8", "100 200 300 400 500 600 700 800"),
        ("qps=1001:1002:lin3", "1001 1001.5 1002"),
        ("qps=0.5:8:log5", "0.5 1 2 4 8"),
        ("qps=.5e3,1E2, .25", ".25 1E2 .5e3"),
        ("max-batchsize=4,1, 2", "1 2 4"),
        ("max_queue_delay=0:2:lin3", "0 1 2"),
    ],
)
def test_values_are_ascending_and_short(text: str, values: str) -> None:
    assert axes.parse(text).values == tuple(values.split())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("qps", "write it as qps=100:20000:log8"),
        ("=1,2", "write it as"),
        ("qps=", "lacks a value"),
        ("qps=1,,2", "lacks a value"),
        ("qps=1,1.0", "a value twice"),
        ("qps=20000:100:log8", "a range goes from its lower to its higher end: 100:20000"),
        ("qps=100:200:log0", "log must be followed by how many values, from 2 to 1000"),
        ("qps=100:200:log1", "from 2 to 1000"),
        ("qps=100:200:lin9999", "from 2 to 1000"),
        ("qps=0:200:log3", "a logarithmic range begins above 0"),
        ("qps=100:200:log", "write a range as"),
        ("qps=100:200", "write a range as"),
        ("qps=-1,2", "'-1' is not a number"),
        ("qps=1:-2:lin3", "write a range as"),
        ("qps=nan", "'nan' is not a number"),
        ("qps=1e999", "no number is so large"),
        ("qps=1:1e999:log3", "no number is so large"),
        ("qps=1:1.000000000000001:lin50", "its ends are too close"),
        (f"qps={','.join(map(str, range(1, 1002)))}", "has 1,001 values, more than 1,000"),
    ],
)
def test_what_is_no_axis_is_refused(text: str, says: str) -> None:
    with pytest.raises(UserError, match=r"^--over: ") as refused:
        axes.parse(text)
    assert says in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("texts", "given", "says"),
    [
        ([], "", "--over must be given"),
        (["qps=1,2", "count=1,2", "time=1,2"], "", "goes over one option or two"),
        (["qsp=1,2"], "", "qsp is not an option of this run that takes a number (did you mean qps?)"),
        (["model=1,2"], "", "model is not an option"),
        (["scenario=1,2"], "", "scenario is not an option"),
        (["in_flight=1,2"], "", "in-flight is not an option"),
        (["qps=1,2"], "qps", "--qps is given twice, once as --over"),
        (["qps=1,2", "qps=3,4"], "", "goes over qps twice"),
        (["qps=1:1000:lin999", "count=1,2"], "", "has 1,998 points, more than 1,000"),
        (["max_batchsize=1.5:8:lin3"], "", "takes whole numbers"),
    ],
)
def test_what_is_no_axis_of_this_run_is_refused(texts: list[str], given: str, says: str) -> None:
    with pytest.raises(UserError) as refused:
        axes.of_options(texts, OPTIONS, frozenset([given]))
    assert says in str(refused.value)


def test_whole_numbers_of_a_range_are_rounded_and_taken_once() -> None:
    (found,) = axes.of_options(["max-batchsize=1:8:log7"], OPTIONS, frozenset())
    assert found.values == ("1", "2", "3", "4", "6", "8")


def test_two_axes_have_all_combinations() -> None:
    found = axes.of_options(["qps=1,2", "max-batchsize=4,8"], OPTIONS, frozenset())
    assert axes.places(found) == [("1", "4"), ("1", "8"), ("2", "4"), ("2", "8")]
    assert axes.words(found, ("2", "4")) == ["--qps", "2", "--max-batchsize", "4"]
    assert axes.name(found, ("2", "4")) == "qps=2_max-batchsize=4"
