"""Limits of a process are named with their fix, and lifted where that is allowed."""

from __future__ import annotations

import errno
import math

import pytest

from drumfire.loadgen import limits
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop

resource = pytest.importorskip("resource")


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    """The limits of another process, by number: all that are not set are infinite."""
    held: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: held.get(which, (-1, -1)))
    monkeypatch.setattr(limits.resource, "setrlimit", held.__setitem__)
    return held


@pytest.mark.parametrize(
    ("before", "found"),
    [((-1, -1), math.inf), ((16, 4096), 64), ((16, 16), 16), ((16, 32), 32), ((16, -1), 64), ((1024, 4096), 1024)],
)
def test_open_files_are_as_many_as_allowed(
    before: tuple[int, int], found: float, allowed: dict[int, tuple[int, int]]
) -> None:
    allowed[resource.RLIMIT_NOFILE] = before
    assert limits.open_files(64) == found
    assert allowed[resource.RLIMIT_NOFILE] == (before if found in (math.inf, before[0]) else (found, before[1]))


async def nothing() -> str:
    return "done"


def test_no_loop_is_begun_where_its_files_cannot_be_opened(allowed: dict[int, tuple[int, int]]) -> None:
    """And Python does not warn of a coroutine that nobody awaited, which is an error in these tests."""
    allowed[resource.RLIMIT_NOFILE] = (16, 16)
    with pytest.raises(UserError, match=r"^no more than 16 files may be .* needs 64: ulimit -n 1024$"):
        run_on_fast_loop(nothing())
    allowed[resource.RLIMIT_NOFILE] = (16, 64)
    assert run_on_fast_loop(nothing()) == "done"


def test_numpy_is_not_imported_where_it_would_end_the_process(allowed: dict[int, tuple[int, int]]) -> None:
    limits.check_addresses()
    allowed[resource.RLIMIT_AS] = (100_000_000, -1)
    with pytest.raises(UserError, match=r"only 100,000,000 bytes of memory: ulimit -v unlimited$"):
        limits.check_addresses()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EMFILE, "Too many"), "no more than 7 files may be open here, and this run needs more: ulimit "),
        (OSError(errno.ENFILE, "Table"), "this machine has too many files open: end other programs"),
        (OSError(errno.EFBIG, "Large"), "no file may be larger than 7 bytes here: ulimit -f unlimited"),
        (BlockingIOError(errno.EAGAIN, "Again"), "no further process or thread is allowed, of 7 for this user: "),
        (RuntimeError("can't start new thread"), "no further process or thread is allowed, of 7 for this user: "),
        (MemoryError(), "there is not enough memory, 0.5 GB are left within its control group: give it more, "),
        (OSError(errno.ENOMEM, "Memory"), "there is not enough memory, 0.5 GB are left within its control group: "),
        (ImportError("x.so: failed to map segment from shared object"), "there is not enough memory, "),
        (OSError(errno.EROFS, "Read-only file system", "/c/x"), "/c/x: Read-only file system: make it accessible, or "),
        (OSError(errno.ENOSPC, "No space left on device", "/c/x"), "/c/x: No space left on device: make room, or "),
        (PermissionError(errno.EACCES, "Permission denied", b"/c/x"), "/c/x: Permission denied: make it accessible, "),
    ],
)  # fmt: skip
def test_errors_that_mean_a_limit(
    error: BaseException, says: str, allowed: dict[int, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed |= {getattr(resource, f"RLIMIT_{name}"): (7, 7) for name in ("NOFILE", "FSIZE", "NPROC")}
    memory = limits.Memory(500_000_000, " within its control group")
    monkeypatch.setattr(limits, "available_memory", lambda: memory)
    found = limits.on_limit(error)
    assert found is not None
    assert found.startswith(says)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("x"), ImportError("no module x"), OSError(errno.ECONNRESET, "Reset"), PermissionError(13, "x")],
)
def test_other_errors_mean_none(error: BaseException) -> None:
    assert limits.on_limit(error) is None


def test_connections_are_files_too(allowed: dict[int, tuple[int, int]]) -> None:
    allowed[resource.RLIMIT_NOFILE] = (1024, 4096)
    limits.check_files(2000)
    assert allowed[resource.RLIMIT_NOFILE] == (2064, 4096)
    says = r"^no more than 4,096 files may be open here, and this run needs 5,064: ulimit -n 5064, or fewer "
    with pytest.raises(UserError, match=says):
        limits.check_files(5000)
