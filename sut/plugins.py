"""Kinds of things by name: those of this project, and those that installed packages add by entry points.

An entry point names a kind as a registry here does, by ``MODULE`` or ``MODULE:ATTRIBUTE``.  A kind is imported only
when it is looked up: some take long to import, and a broken package must not stop what does not use it.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from drumfire.loadgen.errors import UserError, described


class Registry(Mapping[str, Any]):
    """The kinds of a group.  Looking up a kind of another package that cannot be used raises ``UserError``."""

    def __init__(self, group: str, own: Mapping[str, str], admit: Callable[[Any], Any] = lambda found: found) -> None:
        """``group``: of entry points, such as ``drumfire.targets``.  ``own``: kinds whose names no package can take.

        ``admit`` takes what another package's entry point names, and returns the kind; it raises for what is none.
        """
        self._group, self._own, self._admit = group, own, admit
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = imported(self._own[name]) if name in self._own else self._of_package(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._own, **self._others})

    def __len__(self) -> int:
        return len({**self._own, **self._others})

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._others

    def working(self) -> list[str]:
        """The names of the kinds that can be used; imports all."""
        broken = self.broken()
        return [name for name in self if name not in broken]

    def broken(self) -> dict[str, str]:
        """The kinds of other packages that cannot be used, each with the reason; imports all of them."""
        found = {}
        for name in self.packages():
            try:
                self[name]
            except UserError as error:
                found[name] = str(error)
        return found

    def options(self, default: type) -> dict[str, type]:
        """The class of each kind's options; ``default`` for a kind that cannot be used: choosing it raises why."""
        broken = self.broken()
        return {name: default if name in broken else self[name].OPTIONS for name in self}

    def packages(self) -> dict[str, str]:
        """The kinds of other packages, each with its package."""
        return {name: package for name, (_, package) in self._others.items() if name not in self._own}

    @cached_property
    def _others(self) -> Mapping[str, tuple[str, str]]:
        """By name, the place of each kind and the package that adds it."""
        return {
            found.name: (found.value, "an unknown package" if found.dist is None else found.dist.name)
            for found in entry_points(group=self._group)
        }

    def _of_package(self, name: str) -> Any:
        place, package = self._others[name]
        fault = "imported"
        try:
            found = imported(place)
            fault = "used"
            return self._admit(found)
        except (Exception, SystemExit) as error:  # a package may raise anything, and end the program
            raise UserError(
                f"{name} comes from {package}, which cannot be {fault} ({described(error)}): fix or remove that package"
            ) from None


def imported(place: str) -> Any:
    """The object at ``MODULE:ATTRIBUTE``, or the module."""
    module, _, attribute = place.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def must_have(found: Any, protocol: type) -> None:
    """Raise ``TypeError`` unless ``found`` has all that a protocol names."""
    there = dir(found)  # looks at no property, which may not be ready
    for name in (*protocol.__annotations__, *vars(protocol)):
        if not name.startswith("_") and name not in there:
            raise TypeError(f"{found!r:.60} has no {name}")


def must_be_options(found: Any, base: type) -> None:
    """Raise ``TypeError``, or what its annotations raise, unless ``found`` is a class of options derived from one."""
    if not (isinstance(found, type) and issubclass(found, base)):
        raise TypeError(f"OPTIONS is not derived from {base.__name__}")
    typing.get_type_hints(found)
