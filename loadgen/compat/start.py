"""StartTest: one test from a script's handles and settings to its log files, in the calling thread.

Errors beyond the reference's rules are raised here, after the logs are written.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

from drumfire.loadgen import settings as engine
from drumfire.loadgen.audit_config import AUDIT_CONFIG, audited
from drumfire.loadgen.compat import handles
from drumfire.loadgen.compat.completion import no_answer
from drumfire.loadgen.compat.conversions import text
from drumfire.loadgen.compat.find_peak import find_peak
from drumfire.loadgen.compat.output import Output
from drumfire.loadgen.compat.settings import LogSettings, TestSettings, config, requested_by
from drumfire.loadgen.compat.system import CallbackError, CallbackLibrary, CallbackSystem, Interpreter
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.issue import End
from drumfire.loadgen.run import Test
from drumfire.loadgen.system import SystemUnderTest

patience_s = 3600.0
"""How long a test waits without any answer; a large batch may take long.  The reference waits forever."""

_turn = threading.Lock()
T = TypeVar("T")


def StartTest(  # noqa: N802
    sut: int, qsl: int, test_settings: TestSettings, audit_config_filename: str = AUDIT_CONFIG
) -> None:
    """Run a test and write its log files to the current folder; see ``StartTestWithLogSettings``."""
    StartTestWithLogSettings(sut, qsl, test_settings, LogSettings(), audit_config_filename)


def StartTestWithLogSettings(  # noqa: N802
    sut: int,
    qsl: int,
    test_settings: TestSettings,
    log_settings: LogSettings,
    audit_config_filename: str = AUDIT_CONFIG,
) -> None:
    """Run a test and write its log files.

    Raises what a callback raises; ``ValueError`` for invalid handles and settings; ``OSError`` if the logs cannot be
    written; ``TimeoutError`` if the system stops answering; ``RuntimeError`` while another test is running.
    """
    for value, kind in ((test_settings, TestSettings), (log_settings, LogSettings)):
        if type(value) is not kind:
            raise TypeError(f"StartTest: {value!r} is not a {kind.__name__}")
    system, library = handles.resolve(sut, handles.System), handles.resolve(qsl, handles.Library)
    audit = Path(text(audit_config_filename, "StartTest(audit_config_filename)"))
    if not _turn.acquire(blocking=False):
        raise RuntimeError("a test is already running: wait until its StartTest returns")
    try:
        _perform(system, library, requested_by(test_settings), Output(log_settings), audit)
    finally:
        _turn.release()


def _perform(
    system: handles.System, library: handles.Library, requested: engine.TestSettings, output: Output, audit: Path
) -> None:
    if requested.server_num_issue_query_threads:
        raise engine.SettingsError(
            "server_num_issue_query_threads must be 0: Python programs cannot register issuing threads"
        )
    tokens = requested.use_token_latencies  # before the audit file is applied, as in the reference
    requested, warnings, audit_errors = audited(requested, audit)
    called = CallbackSystem(system, requested, tokens, patience_s)
    head: dict[str, Any] = {
        "config_warnings": warnings, "config_errors": tuple(config.errors), "audit_errors": audit_errors,
    }  # fmt: skip
    config.errors = []
    output.create()
    under_test = cast(SystemUnderTest, called)  # its name is a property, and ``open`` sets its ``issue``
    interpreter = Interpreter()
    sampled = CallbackLibrary(library, interpreter)
    try:
        if requested.mode == engine.Mode.FindPeakPerformance:
            test = _in_this_thread(find_peak(under_test, sampled, requested, **head, patience_s=patience_s))
            output.write(test)
        else:
            test = Test(under_test, sampled, requested, **head, patience_s=patience_s)
            try:
                _in_this_thread(test.run())
            except BaseException as error:
                test.interrupted = f"{type(error).__name__}: {error}".removesuffix(": ")
                test.log.error("error_runtime", test.interrupted)
                raise
            finally:
                output.write(test)
    finally:
        interpreter.restore()
    if called.broken is not None:
        raise called.broken
    if any(report.end == End.NO_ANSWER for report in test.reports):
        raise no_answer(patience_s, test.answers.faults.unanswered)


def _in_this_thread(main: Coroutine[Any, Any, T]) -> T:
    with _own_loop(), _plain_interrupt(), _unwrapped():
        return run_on_fast_loop(main)


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise a callback's own error instead of ``CallbackError``."""
    try:
        yield
    except CallbackError as wrapped:
        raise wrapped.error from wrapped.error.__cause__


@contextmanager
def _own_loop() -> Iterator[None]:
    """Let the engine run a loop while StartTest blocks the script's own loop, if a coroutine calls it."""
    outer = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(outer)


@contextmanager
def _plain_interrupt() -> Iterator[None]:
    """Let Ctrl-C interrupt a callback at once; the engine's loop would wait until it returns."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)  # asyncio only replaces Python's own handler
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
