"""The doctor: what it finds here is well-formed, and what it would find elsewhere is judged rightly."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
from typing import Any

import pytest
from rich.console import Console

from drumfire.bench.commands import doctor
from drumfire.loadgen import installation
from drumfire.sut.local.backends import BackendError
from drumfire.sut.remote.triton_local.environment import LocalTritonError


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return doctor.diagnose()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The environment of another machine; tests change it before they call ``findings``."""
    environment = {
        "cpu": "Some CPU", "cores": 8, "governor": None, "clock_source": "tsc", "gpus": [], "python": "3.12.1",
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
    monkeypatch.setattr(doctor, "_measure_timers", quick)
    monkeypatch.setattr(doctor, "_clock_read_ns", lambda: 50.0)
    monkeypatch.setattr(doctor, "check_installation", lambda: None)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    return environment


def findings() -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in doctor.diagnose()["findings"]}


def test_every_finding_is_whole_and_names_its_mend(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found)) == found
    for finding in found["findings"]:
        assert finding["name"]
        assert finding["value"]
        assert finding["status"] in ("ok", "note", "problem")
        assert bool(finding["mend"]) == (finding["status"] != "ok")


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


def test_a_healthy_machine(elsewhere: dict[str, Any]) -> None:
    healthy = doctor.diagnose()
    assert doctor.exit_status(healthy) == 0


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"governor": "powersave"}, "governor"),
        ({"clock_source": "hpet"}, "clock source"),
        ({"cores": 1}, "cores"),
        ({"gpus": ["Some GPU"]}, "ONNX Runtime"),
    ],
)
def test_what_is_not_well_is_noted(elsewhere: dict[str, Any], changes: dict[str, Any], name: str) -> None:
    assert findings()[name]["status"] == "ok"
    elsewhere |= changes
    noted = findings()[name]
    assert noted["status"] == "note"
    assert noted["mend"]


def test_both_wheels_of_onnxruntime_are_a_problem(elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def clash() -> None:
        raise BackendError("both are installed: pip uninstall both")

    monkeypatch.setattr(doctor, "check_installation", clash)
    elsewhere["versions"]["onnxruntime-gpu"] = "1.30.0"
    found = doctor.diagnose()
    assert doctor.exit_status(found) == 1
    (problem,) = (finding for finding in found["findings"] if finding["status"] == "problem")
    assert problem["mend"] == "both are installed: pip uninstall both"
    elsewhere["versions"] |= {"onnxruntime": None, "onnxruntime-gpu": None}
    assert findings()["ONNX Runtime"]["status"] == "note"  # none of them is a choice


def test_what_a_local_triton_lacks_is_told(elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "check_platform", lambda: None)
    assert findings()["triton-local"]["value"] == "can be started"

    def refuse() -> None:
        raise LocalTritonError("apt install libpython3.11")

    monkeypatch.setattr(doctor, "check_platform", refuse)
    told = findings()["triton-local"]
    assert told["value"] == "not on this machine: apt install libpython3.11"
    assert told["status"] == "ok"  # a server elsewhere is the usual case


def test_extras_come_from_the_package_itself(elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = [
        "numpy>=1",
        'absent-thing>=2; extra == "one"',
        "numpy[x]>=1 ; extra == 'one'",
        'pytest; extra == "test"',
    ]

    class Metadata:
        def get_all(self, _: str) -> list[str]:
            return ["one", "empty", "test"]

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: requirements)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: Metadata())
    shown = findings()
    assert "absent-thing missing" in shown["[one]"]["value"]
    assert installation.command("EXTRA") in shown["extras"]["value"]
    assert "[empty]" not in shown
    assert "[test]" not in shown


def test_a_checkout_that_is_not_installed(elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError("drumfire")

    monkeypatch.setattr(importlib.metadata, "requires", none)
    assert findings()["extras"]["status"] == "note"
