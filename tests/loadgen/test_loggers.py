"""Named loggers: silent by default, even at warnings, and shown from a level on."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from drumfire.loadgen import loggers


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    yield
    loggers.show(None)


def say() -> None:
    loggers.REMOTE.info("an %s", "info")
    loggers.FLEET.error("an error")


def test_nothing_is_shown_by_default(capfd: pytest.CaptureFixture[str]) -> None:
    say()
    loggers.SERVING.warning("a warning")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("level", "shown"), [("debug", 2), ("info", 2), ("warning", 1), ("error", 1)])
def test_messages_from_a_level_on(capfd: pytest.CaptureFixture[str], level: str, shown: int) -> None:
    loggers.show("debug")
    loggers.show(level)  # takes the place of the first
    say()
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == shown
    assert err.endswith(" ERROR drumfire.fleet: an error\n")
    loggers.show(None)
    say()
    assert capfd.readouterr().err == ""


def test_a_users_own_handler_has_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "drumfire"):
        say()
    assert [record.getMessage() for record in caplog.records] == ["an info", "an error"]
