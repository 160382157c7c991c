"""The doctor: what it finds here is well-formed, and what it would find elsewhere is judged rightly."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from drumfire.bench.commands import doctor
from drumfire.bench.doctor import limits, machine, software
from drumfire.loadgen import installation
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.limits import Memory
from drumfire.sut.local.backends import BackendError
from drumfire.sut.remote.triton_local.environment import LocalTritonError


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return doctor.diagnose()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The environment of another machine; tests change it before they call ``findings``."""
    environment = {
        "cpu": "Some CPU", "cores": 8, "cpu_quota": None, "governor": None, "clock_source": "tsc", "gpus": [],
        "python": "3.12.1",
        "versions": {"drumfire": "0.1.0", "numpy": "2.0.0", "uvloop": "0.21.0", "hdrhistogram": "0.10.3",
                     "onnxruntime": "1.30.0", "onnxruntime-gpu": None},
    }  # fmt: skip

    async def quick() -> dict[str, Any]:
        return {
            "exact_timer": True,
            "realtime": True,
            "wake_p50_ns": 1,
            "wake_p99_ns": 2,
            "issue_p50_ns": 3,
            "issue_p99_ns": 4,
        }

    monkeypatch.setattr(doctor, "describe", lambda _: environment)
    monkeypatch.setattr(machine, "measure_timers", quick)
    monkeypatch.setattr(machine, "clock_read_ns", lambda: 50.0)
    monkeypatch.setattr(software, "check_installation", lambda: None)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(machine, "steal", lambda: {"name": "steal", "value": "0", "status": "ok", "mend": None})
    monkeypatch.setattr(limits, "findings", lambda ports: [])
    return environment


def findings() -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in doctor.diagnose()["findings"]}


def test_every_finding_is_whole_and_names_its_mend(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found)) == found
    for finding in found["findings"]:
        assert finding["name"]
        assert finding["value"]
        assert finding["status"] in ("ok", "info", "note", "problem")
        assert bool(finding["mend"]) == (finding["status"] in ("note", "problem"))


def test_timers_are_measured(found: dict[str, Any]) -> None:
    measured = found["measured"]
    assert measured["clock_read_ns"] > 0
    assert 0 <= measured["issue_p50_ns"] <= measured["issue_p99_ns"]  # never early
    assert measured["wake_p50_ns"] <= measured["wake_p99_ns"]


def test_shown_with_its_mends_at_80_columns(found: dict[str, Any]) -> None:
    out = io.StringIO()
    doctor.show(found, Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.split("\n"))) <= 80
    assert all(finding["name"] in text for finding in found["findings"])
    words = " ".join(text.split())
    assert all(finding["mend"] in words for finding in found["findings"] if finding["mend"])


def test_notes_and_problems_come_last_with_their_counts_and_fixes(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        {"name": "clock", "value": "hpet", "status": "problem", "mend": "change the clock"},
        {"name": "GPUs", "value": "none seen", "status": "info", "mend": None},
        {"name": "load", "value": "9", "status": "note", "mend": "end programs"},
        {"name": "cores", "value": "2 usable", "status": "ok", "mend": None},
    ]
    doctor.show({"findings": found, "status": "problem"}, Console(width=80))
    every, again = capsys.readouterr().out.split("\n\n")
    assert [line.split()[:2] for line in every.splitlines()] == [[one["status"], one["name"]] for one in found]
    assert [line.strip() for line in again.splitlines()] == [
        "1 problem, 1 note:", "note     load   9", "end programs", "problem  clock  hpet", "change the clock",
    ]  # fmt: skip
    doctor.show({"findings": found[3:], "status": "ok"}, Console(width=80))
    assert capsys.readouterr().out.endswith("\n\nno problems, no notes\n")


def test_a_healthy_machine(elsewhere: dict[str, Any]) -> None:
    healthy = doctor.diagnose()
    assert doctor.exit_status(healthy) == 0


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"governor": "powersave"}, "governor"),
        ({"governor": "ondemand"}, "governor"),
        ({"cpu_quota": 1.5}, "CPU quota"),
        ({"clock_source": "hpet"}, "clock source"),
        ({"cores": 1}, "cores"),
        ({"gpus": ["Some GPU"]}, "ONNX Runtime"),
    ],
)
def test_what_is_not_well_is_noted(elsewhere: dict[str, Any], changes: dict[str, Any], name: str) -> None:
    assert findings()[name]["status"] == ("info" if name == "governor" else "ok")
    elsewhere |= changes
    noted = findings()[name]
    assert noted["status"] == "note"
    assert noted["mend"]


def test_both_wheels_of_onnxruntime_are_a_problem(elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def clash() -> None:
        raise BackendError("both are installed: pip uninstall both")

    monkeypatch.setattr(software, "check_installation", clash)
    elsewhere["versions"]["onnxruntime-gpu"] = "1.30.0"
    found = doctor.diagnose()
    assert doctor.exit_status(found) == 1
    (problem,) = (finding for finding in found["findings"] if finding["status"] == "problem")
    assert problem["mend"] == "both are installed: pip uninstall both"
    elsewhere["versions"] |= {"onnxruntime": None, "onnxruntime-gpu": None}
    assert findings()["ONNX Runtime"]["status"] == "note"  # none of them is a choice


def test_what_a_local_triton_lacks_is_told(elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "check_platform", lambda: None)
    assert findings()["triton-local"]["value"] == "can be started"

    def refuse() -> None:
        raise LocalTritonError("apt install libpython3.11")

    monkeypatch.setattr(software, "check_platform", refuse)
    told = findings()["triton-local"]
    assert told["value"] == "not on this machine: apt install libpython3.11"
    assert told["status"] == "info"  # a server elsewhere is the usual case


def test_extras_come_from_the_package_itself(elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = [
        "numpy>=1",
        'absent-thing>=2; extra == "one"',
        "numpy[x]>=1 ; extra == 'one'",
        'pytest; extra == "test"',
        *(f'absent-{letter}; extra == "two"' for letter in "abc"),
        *(f'{name}; extra == "three"' for name in ("numpy", "pytest")),
        'numpy; extra == "four"',
    ]

    class Metadata:
        def get_all(self, _: str) -> list[str]:
            return ["one", "two", "three", "four", "empty", "test"]

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: requirements)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: Metadata())
    shown = findings()
    assert (shown["[one]"]["value"], shown["[one]"]["status"]) == ("not installed: absent-thing", "info")
    assert shown["[two]"]["value"] == "not installed: absent-a and 2 more"  # short, whatever it needs
    assert (shown["[three]"]["value"], shown["[three]"]["status"]) == ("installed: 2 packages", "ok")
    assert shown["[four]"]["value"] == f"numpy {importlib.metadata.version('numpy')}"
    assert installation.command("EXTRA") in shown["extras"]["value"]
    assert "[empty]" not in shown
    assert "[test]" not in shown


def test_a_checkout_that_is_not_installed(elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError("drumfire")

    monkeypatch.setattr(importlib.metadata, "requires", none)
    assert findings()["extras"]["status"] == "note"


def told(one: dict[str, Any]) -> tuple[str, str, str]:
    """Status, value and fix of a finding."""
    return one["status"], one["value"], one["mend"] or ""


def test_a_loop_that_cannot_be_begun_is_a_problem(elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(main: Any) -> None:
        main.close()
        raise UserError("no more than 16 files may be open here: ulimit -n 1024")

    monkeypatch.setattr(machine, "run_on_fast_loop", refuse)
    diagnosis = doctor.diagnose()
    (problem,) = (one for one in diagnosis["findings"] if one["status"] == "problem")
    assert told(problem) == (
        "problem", "cannot be measured", "no more than 16 files may be open here: ulimit -n 1024"
    )  # fmt: skip
    assert doctor.exit_status(diagnosis) == 1


@pytest.mark.parametrize(
    ("changes", "name", "mend"),
    [
        ({"realtime": False}, "real-time", "--cap-add SYS_NICE"),
        ({"exact_timer": False}, "timer", "no timerfd"),
        ({"wake_p99_ns": 5_000_000}, "wake-up lateness", "sleeps end late: free a core"),
        ({"issue_p99_ns": 5_000_000}, "issue lateness", "queries go out late: free a core"),
    ],
)
def test_timers_that_are_not_well(changes: dict[str, Any], name: str, mend: str) -> None:
    names = ("wake_p50_ns", "wake_p99_ns", "issue_p50_ns", "issue_p99_ns")
    measured = {"exact_timer": True, "realtime": True} | dict.fromkeys(names, 10)
    healthy = {one["name"]: one for one in machine.timers(measured)}
    assert {one["status"] for one in healthy.values()} == {"ok"}
    found = {one["name"]: one for one in machine.timers(measured | changes)}
    status, _, fix = told(found[name])
    assert status == "note"
    assert mend in fix


@pytest.mark.parametrize(
    ("clock", "read_ns", "statuses"),
    [("tsc", 30.0, ["ok", "ok"]), (None, 30.0, ["info", "ok"]), ("acpi_pm", 900.0, ["note", "note"])],
)
def test_clocks(clock: str | None, read_ns: float, statuses: list[str]) -> None:
    found = machine.clocks({"clock_source": clock}, {"clock_read_ns": read_ns})
    assert [one["status"] for one in found] == statuses


@pytest.mark.parametrize(
    ("line", "status", "value"),
    [
        ("cpu  900 0 100 5000 50 0 0 0 0 0", "ok", "0.00% of the busy time since boot"),
        ("cpu  900 0 50 5000 50 0 0 50 0 0", "note", "5.00% of the busy time since boot"),
        ("cpu  900 0", "info", "not shown"),
        ("", "info", "not shown"),
    ],
)
def test_steal(line: str, status: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "stat").write_text(f"{line}\ncpu0 1 2\n")
    assert told(machine.steal(tmp_path / "stat"))[:2] == (status, value)
    assert told(machine.steal(tmp_path / "none"))[:2] == ("info", "not shown")


def test_threads_of_cores(tmp_path: Path) -> None:
    path = tmp_path / "active"
    assert told(machine.threads_of_cores(path))[1] == "not shown"
    path.write_text("1\n")
    assert told(machine.threads_of_cores(path))[1] == "on: two of the cores shown may be one"
    path.write_text("0\n")
    assert told(machine.threads_of_cores(path))[1] == "off"


def test_a_load_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise OSError

    monkeypatch.setattr(os, "getloadavg", none)
    assert told(machine.load(4))[1] == "not shown"
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0, 0))
    assert told(machine.load(4))[0] == "note"


@pytest.mark.parametrize(
    ("variables", "value", "status"),
    [({}, "ordinary", "ok"), ({"Py_DEBUG": 1}, "debug", "note"), ({"Py_GIL_DISABLED": 1}, "free-threaded", "note")],
)
def test_builds_of_python(variables: dict[str, int], value: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software.sysconfig, "get_config_var", variables.get)
    assert told(software.python_build())[:2] == (status, value)


@pytest.mark.parametrize(("kind", "status"), [("x86_64-pc-linux-musl", "note"), ("x86_64-pc-linux-gnu", "ok")])
def test_c_libraries(kind: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software.sysconfig, "get_config_var", {"HOST_GNU_TYPE": kind}.get)
    assert told(software.libc())[0] == status


@pytest.mark.parametrize(
    ("encoding", "status"), [("utf-8", "ok"), ("UTF8", "ok"), ("ascii", "note"), ("latin-1", "note")]
)
def test_a_console_that_cannot_show_all(encoding: str, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert told(software.console())[0] == status


@pytest.mark.parametrize(
    ("available", "limit", "status", "fix"),
    [
        (8e9, "", "ok", ""),
        (5e8, "", "note", "little for a model: end programs"),
        (8e7, " within its control group", "problem", "too little for a run: raise the limit (docker: --memory)"),
        (5e8, " under ulimit -v", "note", "little for a model: raise the limit"),
    ],
)
def test_memory(available: float, limit: str, status: str, fix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "available_memory", lambda: Memory(int(available), limit))
    assert told(limits.memory()) == (status, f"{available / 1e9:.3g} GB available{limit}", fix)


@pytest.mark.parametrize(
    ("soft", "hard", "status"), [(1024, 1024, "ok"), (256, 256, "note"), (16, 4096, "note"), (16, 32, "problem")]
)
def test_open_files(soft: int, hard: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "open_files", lambda wanted: max(soft, min(wanted, hard)))
    assert told(limits.files())[:2] == (status, f"at most {soft:,}")


def test_a_port_in_use_is_a_problem_where_it_was_asked_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (found,) = limits.ports([port])
    assert told(found)[:2] == ("problem", "in use")
    assert f":{port}" in found["mend"]
    (found,) = limits.ports([port])
    assert told(found) == ("ok", "free", "")


def test_a_port_of_serve_in_use_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(socket.socket):
        def bind(self, address: Any) -> None:
            raise OSError(98, "Address already in use")

    monkeypatch.setattr(limits.socket, "socket", Taken)
    assert [told(one)[0] for one in limits.ports([])] == ["note"] * 3


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "file" / "cache"))
    assert told(limits.cache())[0] == "problem"
    assert "set MODEL_DIR" in limits.cache()["mend"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").touch()
    assert told(limits.output())[0] == "problem"

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(limits.tempfile, "gettempdir", none)
    assert told(limits.temporary())[0] == "problem"
    assert told(limits.shared_memory(tmp_path / "none"))[0] == "note"


@pytest.mark.parametrize(
    ("free", "cache", "output"), [(9e9, "ok", "ok"), (1e9, "note", "note"), (5e7, "note", "problem")]
)
def test_disks(free: float, cache: str, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setattr(limits, "_free", lambda folder: int(free))
    assert (limits.cache()["status"], limits.output()["status"]) == (cache, output)
