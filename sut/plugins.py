"""Kinds of things by name: those of this project, and those that installed packages add by entry points.

An entry point names a kind as a registry here does, by ``MODULE`` or ``MODULE:ATTRIBUTE``.  A kind is imported only
when it is looked up: some take long to import, and a broken package must not stop what does not use it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any

from drumfire.loadgen.errors import UserError, one_line


class Registry(Mapping[str, Any]):
    """The kinds of a group.  Looking up a kind of another package that cannot be imported raises ``UserError``."""

    def __init__(self, group: str, own: Mapping[str, str]) -> None:
        """``group``: of entry points, such as ``drumfire.targets``.  ``own``: kinds whose names no package can take."""
        self._group, self._own = group, own
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
        """The names of the kinds that can be imported; imports all."""
        broken = self.broken()
        return [name for name in self if name not in broken]

    def broken(self) -> dict[str, str]:
        """The kinds of other packages that cannot be imported, each with the reason; imports all of them."""
        found = {}
        for name in self.packages():
            try:
                self[name]
            except UserError as error:
                found[name] = str(error)
        return found

    def options(self, default: type) -> dict[str, type]:
        """The class of each kind's options; ``default`` for a kind that cannot be imported: to choose it raises why."""
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
        try:
            return imported(place)
        except Exception as error:
            text = f"{type(error).__name__}: {one_line(error)}"
            raise UserError(
                f"{name} comes from {package}, which cannot be imported ({text}): fix or remove that package"
            ) from None


def imported(place: str) -> Any:
    """The object at ``MODULE:ATTRIBUTE``, or the module."""
    module, _, attribute = place.partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
