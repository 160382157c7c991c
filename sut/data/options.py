"""What a user says of a model's inputs, in one grammar for a model here, on a server, and served.

Reads the words; ``sizes`` fits them to a model, and ``sources`` opens the samples.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

from drumfire.loadgen.options import flag, option
from drumfire.sut.data.inputs import InputError
from drumfire.sut.data.lengths import Lengths

T = TypeVar("T")
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"


class Values(NamedTuple):
    """Random values of an input: from ``least`` to ``most``, both included where they are integers."""

    least: int | float
    most: int | float

    def __str__(self) -> str:
        """As ``--range`` has it."""
        return f"{self.least}..{self.most}"


def parse_dims(words: Sequence[str]) -> dict[str, Lengths]:
    """Sizes by their names, from ``NAME=SIZE`` such as ``sequence=8..128``.  Raises ``InputError``."""
    form = "NAME=SIZE, such as s=128, s=8..128 (uniform) or s=8..24..128 (log-normal with the median 24)"
    return _by_name("dim", words, form, Lengths.of)


def parse_shapes(words: Sequence[str]) -> dict[str, tuple[Lengths, ...]]:
    """Shapes by input, from ``NAME=SHAPE`` such as ``x=3x224x224``.  Raises ``InputError``."""
    form = "NAME=SHAPE, such as x=3x224x224, ids=8..128 (uniform) or ids=8..24..128 (log-normal with the median 24)"
    return _by_name("shape", words, form, lambda text: tuple(map(Lengths.of, text.split("x"))))


def parse_inputs(words: Sequence[str]) -> dict[str, tuple[Lengths, ...]]:
    """The same in fixed sizes, from ``NAME:SHAPE`` such as ``x:3,224,224``; a name may hold colons."""
    return _by_name(
        "input", words, "NAME:SHAPE, such as INPUT0:3,224,224", lambda text: tuple(map(_fixed, text.split(","))), ":"
    )


def parse_ranges(words: Sequence[str]) -> dict[str, Values]:
    """Values by input, from ``NAME=0..30521``.  Raises ``InputError``."""
    return _by_name("range", words, "NAME=LEAST..MOST, such as input_ids=0..30521", _values)


def _by_name(name: str, words: Sequence[str], form: str, read: Callable[[str], T], sign: str = "=") -> dict[str, T]:
    """What is behind the last ``sign`` of each word, by what is before it."""
    found: dict[str, T] = {}
    for word in words:
        key, _, text = word.rpartition(sign)
        try:
            if not key:
                raise ValueError("it has no name")
            value = read(text)
        except ValueError as error:
            raise InputError(f"{flag(name)} {word!r:.80}: {error}: use {form}") from None
        if key in found:
            raise InputError(f"{flag(name)} {word!r:.80}: {key!r:.80} appears twice")
        found[key] = value
    return found


def _fixed(text: str) -> Lengths:
    if ".." in text:
        raise ValueError("its sizes are fixed (--shape draws others)")
    return Lengths.of(text.strip())


def _values(text: str) -> Values:
    least, between, most = text.partition("..")
    if not between or not all(re.fullmatch(_NUMBER, number) for number in (least, most)):
        raise ValueError(f"{text!r:.80} is not two numbers with .. between them")
    values = [int(number) if re.fullmatch("[+-]?[0-9]+", number) else float(number) for number in (least, most)]
    if not all(map(math.isfinite, values)):
        raise ValueError("a number is too large")
    if values[0] > values[1]:
        raise ValueError(f"{least} is above {most}")
    return Values(*values)


def _checked(parse: Callable[[Sequence[str]], Any]) -> Callable[[str], object]:
    return lambda word: parse([word])


def _known() -> Sequence[str]:
    from drumfire.sut.models import MODELS  # which are made of data

    return ("random", "zero", *MODELS)


@dataclass(frozen=True)
class ShapeOptions:
    """The options of sizes that a model's file leaves open."""

    TITLE: ClassVar = "a model's inputs"

    dim: tuple[str, ...] = option(
        (),
        metavar="NAME=SIZE",
        check=_checked(parse_dims),
        help="a size that the model's file leaves open, by the name that it has there, in all inputs alike, such as "
        "sequence=128; sequence=8..128 draws one for each sample, and sequence=8..24..128 with the median 24",
    )
    shape: tuple[str, ...] = option(
        (),
        metavar="NAME=SHAPE",
        check=_checked(parse_shapes),
        help="shape of an input whose sizes the model leaves open, of one sample, without the batch, such as "
        "x=3x224x224 or ids=8..128",
    )

    @property
    def said(self) -> Mapping[str, Any]:
        """What the user has said, by the option's name."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class InputOptions(ShapeOptions):
    """The options of inputs."""

    input: tuple[str, ...] = option(
        (),
        metavar="NAME:SHAPE",
        check=_checked(parse_inputs),
        help="the same in fixed sizes: INPUT0:3,224,224",
    )
    range: tuple[str, ...] = option(
        (),
        metavar="NAME=LEAST..MOST",
        check=_checked(parse_ranges),
        help="random values of an input, both included, such as input_ids=0..30521 (default: normal values for floats, "
        "and for integers the ids that the model's tables have, or 0..127)",
    )
    input_data: str | None = option(
        None,
        metavar="WHAT",
        known=lambda: _known(),
        help="random (default), zero, a named model's data set such as digits, an .npz file or a folder of .npy "
        "files named as the inputs, a JSON file as perf_analyzer reads it, a file of JSON lines (.jsonl), or a folder "
        "of files for a model of one text; outputs in .npy and JSON are compared with a server's replies",
    )
