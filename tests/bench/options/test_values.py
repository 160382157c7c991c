"""Values become options and come back; a value that an option cannot have is refused in one line."""

from __future__ import annotations

import enum
import json
import math
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.options.values import build, declared, kind_of, of_all_kinds, plain
from drumfire.loadgen.errors import UserError, nearest
from drumfire.loadgen.options import choice, option
from drumfire.loadgen.settings import Scenario
from tests.support import options
from tests.support.options import Case


@dataclass(frozen=True)
class Inner:
    share: float = option(0.5, least=0, most=1, help="a share")
    names: tuple[str, ...] = option((), help="repeated")


@dataclass(frozen=True)
class Fast(Inner):
    turbo: bool = option(False, help="only of the fast")


@dataclass(frozen=True)
class Slow:
    patience: float | None = option(None, metavar="S", alone=0.0, help="only of the slow")


def known_code(text: str) -> None:
    if not text.isdigit():
        raise UserError("--code: no such code")


class Pace(enum.IntEnum):
    Fast = 7


@dataclass(frozen=True)
class Outer:
    pace: str = option(
        position=True, metavar="PACE", choices=("Fast", "Slow"), aliases={"lazy": "Slow"}, help="fast or slow"
    )
    count: int = option(3, help="how many")
    sizes: tuple[int, ...] = option((), separator=",", help="sizes")
    file: Path | None = option(None, help="a file")
    code: str = option("1", check=known_code, help="a code")
    hurry: bool = option(False, needs=("count", "sizes"), help="be quick")
    own: Any = choice("pace", lambda: {"Fast": Fast, "Slow": Slow})
    inner: Inner = field(default_factory=Inner)


@given(st.sampled_from(options.different_cases()), st.data())
def test_options_travel_as_plain_data(case: Case, data: st.DataObject) -> None:
    given = data.draw(options.given(case))
    built = build(case.command.options, given)
    there = json.loads(json.dumps(plain(built)))
    assert plain(build(case.command.options, there)) == there
    assert build(case.command.options, {name: there[name] for name in given}) == built


def test_what_is_not_given_has_its_default() -> None:
    built = build(Outer, {"pace": "slow"})
    assert built == Outer("Slow", own=Slow())
    assert plain(built) == {
        "pace": "Slow", "count": 3, "sizes": [], "code": "1", "hurry": False, "share": 0.5, "names": [],
    }  # fmt: skip


@pytest.mark.parametrize("word", ["fast", "FAST", "Fast"])
def test_choices_in_any_case(word: str) -> None:
    built = build(Outer, {"pace": word, "turbo": True})
    assert (built.pace, built.own) == ("Fast", Fast(turbo=True))


def test_other_words_for_a_choice() -> None:
    assert build(Outer, {"pace": "LAZY"}).pace == "Slow"
    for word in ("cuda", "CUDA", "gpu", "GPU"):
        assert build(RunOptions, {"backend": "null", "model": "digits", "device": word}).device == "gpu"
    with pytest.raises(
        UserError, match=r"^DEVICE: unknown 'tpu'.*; choose one of cpu, gpu, or write gpu:1, .*gpu:all$"
    ):
        build(RunOptions, {"backend": "null", "model": "digits", "device": "tpu"})


@pytest.mark.parametrize("scenario", ["server", "SERVER", "Server"])
def test_scenarios_in_any_case(scenario: str) -> None:
    assert build(RunOptions, {"backend": "null", "model": "digits", "scenario": scenario}).traffic.scenario == "Server"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "PACE must be given"),
        ({"pace": "Fats"}, "PACE: unknown 'Fats' (did you mean Fast?); choose one of Fast, Slow"),
        ({"pace": 3}, "PACE: unknown 3; choose one of Fast, Slow"),
        ({"count": 0}, "--count: must be above 0, not 0"),
        ({"count": "-2"}, "--count: must be above 0, not -2"),
        ({"count": 10**9 + 1}, "--count: must be at most 1,000,000,000, not 1000000001"),
        ({"count": 10**400}, f"--count: must be at most 1,000,000,000, not 1{'0' * 59}..."),
        ({"count": 2.0}, "--count: 2.0 is not a whole number"),
        ({"count": "1.5"}, "--count: '1.5' is not a whole number"),
        ({"count": True}, "--count: True is not a whole number"),
        ({"count": None}, "--count: None is not a whole number"),
        ({"share": 1.5}, "--share: must be at most 1, not 1.5"),
        ({"share": -1e-9}, "--share: must be at least 0, not -1e-09"),
        ({"share": "nan"}, "--share: must be at least 0, not nan"),
        ({"share": "inf"}, "--share: must be at most 1, not inf"),
        ({"share": 10**400}, f"--share: 1{'0' * 59}... is not a number"),
        ({"share": [1]}, "--share: [1] is not a number"),
        ({"share": "2.5s"}, "--share: '2.5s' is not a number: write it without a unit, as 2.5"),
        ({"sizes": "4,x"}, "--sizes: 'x' is not a whole number"),
        ({"sizes": {4}}, "--sizes: {4} is not a whole number"),
        ({"names": "a\udcff"}, "--names: 'a\\udcff' is not UTF-8"),
        ({"code": "none"}, "--code: no such code"),
        ({"code": 1.5}, "--code: must be text, not 1.5"),
        ({"code": True}, "--code: must be text, not True"),
        ({"names": [""]}, "--names: must not be empty"),
        ({"names": [4]}, "--names: must be text, not 4"),
        ({"hurry": "yes"}, "--hurry: must be true or false, not 'yes'"),
        ({"hurry": True}, "--hurry has no effect without --count or --sizes: leave it out"),
        ({"file": ""}, "--file: must not be empty"),
        ({"file": "a\0b"}, "--file: 'a\\x00b' cannot be a path"),
        ({"file": "x" * 300}, f"--file: the name is too long for a file: {'x' * 60}..."),
        ({"patience": 1}, "--patience has no effect with Fast, only with Slow: leave it out"),
        ({"turbi": True}, "unknown option --turbi (did you mean --turbo?)"),
        ({"own": {}}, "unknown option --own (did you mean --count?)"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_a_value_that_cannot_be_is_refused_in_one_line(values: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as refused:
        build(Outer, ({"pace": "Fast"} if values else {}) | values)
    assert str(refused.value) == says


LONG = 10**5000
EXTREMES = (
    *("nan", "-nan", "inf", "-inf", "1e400", "-1e400", "1e300", "1e-300", "1e-12", "-1", "0", "-0.0", "", " ", "0x10"),
    *("9" * 5000, "1" + "0" * 30, "1_0", "1,0", "\0", "\udcff", "\n", "x" * 300, "/" + "y/" * 3000),
    *(math.nan, math.inf, -math.inf, 1e300, 5e-324, LONG, -(10**30), True, None, [], {}, [math.nan], b"1"),
)
"""Values of a command line, of TOML and of a Python caller."""


def test_every_option_takes_or_refuses_every_extreme() -> None:
    """Without anything being run: what is taken is within the option's bounds, and what is not is told in one line."""
    found = {}
    for case in options.different_cases():
        for one in case.declared:
            if case.kind is None or one.name != case.by:
                found[one.name, one.kind, one.option.least, one.option.most, str(one.default)] = case, one
    for case, one in found.values():
        needed = {each.name: (each.choices or ["x"])[0] for each in case.declared if each.default is MISSING}
        if case.kind is not None:
            needed[case.by] = case.kind
        for value in EXTREMES:
            try:
                taken, said = plain(build(case.command.options, needed | {one.name: value})).get(one.name), ""
            except UserError as error:
                taken, said = None, str(error)
            assert "\n" not in said, (one.name, value)
            assert len(said) < 600, (one.name, value)
            for each in taken if isinstance(taken, list) else [taken]:
                if one.kind in (int, float) and each is not None and each not in (one.default, one.option.alone):
                    assert each > 0 if one.option.least is None else each >= one.option.least, (one.name, value)
                    assert each <= one.option.most, (one.name, value)


def test_a_single_value_is_a_list_of_one() -> None:
    built = build(Outer, {"pace": "Fast", "sizes": 4, "names": "one"})
    assert (built.sizes, built.inner.names) == ((4,), ("one",))


def test_a_member_of_an_enumeration_is_its_name() -> None:
    assert build(Outer, {"pace": Pace.Fast}).pace == "Fast"
    assert build(RunOptions, {"backend": "null", "model": "m", "scenario": Scenario.Server}) == build(
        RunOptions, {"backend": "null", "model": "m", "scenario": "server"}
    )


def test_a_text_that_is_checked_may_be_a_number() -> None:
    assert build(Outer, {"pace": "Fast", "code": 50}).code == "50"


def test_bounds_are_values_too() -> None:
    for share in (0, 1, "0", "1.0"):
        assert build(Outer, {"pace": "Fast", "share": share}).inner.share == float(share)
    assert build(Outer, {"pace": "Fast", "count": "1000000000"}).count == 10**9
    assert build(Outer, {"pace": "slow", "patience": 0.0}).own.patience == 0.0


def test_an_option_that_needs_another_goes_with_it() -> None:
    assert build(Outer, {"pace": "Fast", "hurry": True, "sizes": [1]}).hurry
    assert not build(Outer, {"pace": "Fast", "hurry": False}).hurry  # as in plain data, which holds defaults too


def test_kinds_have_their_own_options() -> None:
    every = {one.name: list(its_kinds) for one, its_kinds in of_all_kinds(Outer)}
    assert every["turbo"] == ["Fast"]
    assert every["patience"] == ["Slow"]
    assert every["share"] == every["count"] == []
    assert "turbo" not in {one.name for one in declared(Outer)}
    assert kind_of(Outer, {"pace": "lazy"}) == "Slow"
    assert kind_of(Outer, {}) is kind_of(Inner, {}) is None


@given(st.text(max_size=12), st.lists(st.text(max_size=12), max_size=4))
def test_the_nearest_is_one_of_the_words(word: str, words: list[str]) -> None:
    found = nearest(word, words)
    assert found == "" or found.removeprefix(" (did you mean ").removesuffix("?)") in words
    assert nearest("sceanrio", ["qps", "scenario"]) == " (did you mean scenario?)"


@pytest.mark.parametrize(
    ("word", "words", "meant"),
    [
        ("v3.1", ["v6.1", "v5.0"], ""),
        ("TEST02", ["TEST01", "TEST05"], ""),
        ("TEST1", ["TEST01", "TEST04"], "TEST01"),
        ("test01", ["TEST01"], "TEST01"),
        ("v61", ["v6.1", "v5.0"], "v6.1"),
        ("resnt50", ["resnet50", "digits"], "resnet50"),
    ],
)
def test_another_number_is_no_slip(word: str, words: list[str], meant: str) -> None:
    assert nearest(word, words) == (f" (did you mean {meant}?)" if meant else "")


@pytest.mark.parametrize("case", options.cases(), ids=str)
def test_what_options_refer_to_exists(case: Case) -> None:
    names = {one.name for one in case.declared}
    for one in case.declared:
        assert set(one.option.needs) <= names
        assert set(one.option.aliases.values()) <= set(one.choices)
        assert one.option.help
        assert "\n" not in one.option.help
        if one.option.scenarios:
            assert "scenario" in names
