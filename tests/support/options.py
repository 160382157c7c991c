"""Every command with its options, and values for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from drumfire.bench import commands
from drumfire.bench.options.parser import Command
from drumfire.bench.options.values import Declared, declared, flag, kinds

_TEXTS = {
    "url": "grpcs://h:1",
    "warmup": "5s",
    "dim": "s=8..16",
    "shape": "x=3x8",
    "input": "x:3,8",
    "range": "x=0..9",
    "pad": "longest",
    "metric": "exact",
    "margin": "3%",
    "figure": "p95",
    "skip": "5s",
    "expect": "p99<50ms",
    "since": "2026-11-30",
    "until": "2w",
    "older_than": "30d",
    "expose": "9400",
    "bound": "p99<50ms",
    "over": "qps=100:20000:log8",
}
"""Where not any text will do."""


class Case(NamedTuple):
    """A command with one of its kinds of options."""

    path: list[str]
    command: Command
    kind: str | None

    @property
    def declared(self) -> list[Declared]:
        return declared(self.command.options, self.kind)

    @property
    def by(self) -> str:
        """The option whose value the kind is."""
        return next(one.name for one in self.declared if self.kind in one.choices)

    def __str__(self) -> str:
        return " ".join([*self.path, *filter(None, [self.kind])])


def cases() -> list[Case]:
    """Every command with every kind of its options."""
    everything = commands.everything().items()
    return [Case(name.split(), one, kind) for name, one in everything for kind in kinds(one.options) or [None]]


def different_cases() -> list[Case]:
    """One case of those whose options are the same."""
    return list({tuple(one.name for one in case.declared): case for case in cases()}.values())


def words(case: Case, *more: str) -> list[str]:
    """A command line with every option of the case, and ``more`` words of options."""
    line, after = list(case.path), list[str]()
    for one in case.declared:
        value = case.kind if case.kind is not None and one.name == case.by else _example(one)
        if one.option.rest:
            after = ["--", value]
        elif one.option.position:
            line.append(value)
        else:
            line += [flag(one.name)] if one.kind is bool else [flag(one.name), value]
    return [*line, *more, *after]


def _example(one: Declared) -> str:
    if one.choices:
        return one.choices[-1]
    if one.kind is int:
        return str(max(3, int(one.option.least or 0)))
    number = str(min(2.5, one.option.most))
    return {float: number, Path: "/some/where"}.get(one.kind, _TEXTS.get(one.name, "some: 'text'"))


@st.composite
def given(draw: st.DrawFn, case: Case) -> dict[str, Any]:
    """Values for some of the case's options, those that must be given among them."""
    found: dict[str, Any] = {}
    for one in case.declared:
        if case.kind is not None and one.name == case.by:
            found[one.name] = case.kind
        elif one.option.position or draw(st.booleans()):
            each = _value(one)
            found[one.name] = draw(st.lists(each, min_size=1, max_size=3) if one.several else each)
    known = {one.name: one for one in case.declared}
    for name in list(found):
        needs = known[name].option.needs
        if needs and not found.keys() & set(needs):
            del found[name]
    return found


def _value(one: Declared) -> st.SearchStrategy[Any]:
    if one.choices:
        return st.sampled_from(one.choices)
    if one.kind is bool:
        return st.booleans()
    least, most = one.option.least, one.option.most
    if one.kind is int:
        return st.integers(1 if least is None else int(least), int(most))
    if one.kind is float:
        return st.floats(least or 0.0, most, exclude_min=least is None)
    if one.kind is Path:
        return st.from_regex(r"/[\w. =#\"'-]{1,40}", fullmatch=True).map(str)
    if one.name in _TEXTS:
        return st.just(_TEXTS[one.name])
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
