"""Kinds that other packages add by entry points: a target, a backend, a model; and packages that cannot be imported."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.installation import ROOT
from drumfire.sut import models, remote
from drumfire.sut.local import backends
from drumfire.sut.plugins import Registry
from tests.support.command import Done, columns, drumfire, here, one_line_error, result_of
from tests.support.packages import need

SERVER = ["--scenario", "Server", "--qps", "600", "--time", "1", "--max-latency", "5", "--no-dashboard", "--json"]


def install(folder: Path, package: str, group: str = "targets", **kinds: str) -> None:
    """What installing a package with these entry points leaves behind."""
    made = folder / f"{package}-1.0.dist-info"
    made.mkdir(parents=True, exist_ok=True)
    (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = "".join(f"{name} = {place}\n" for name, place in kinds.items())
    with (made / "entry_points.txt").open("a") as file:
        file.write(f"[drumfire.{group}]\n{lines}")


@pytest.fixture
def path(tmp_path: Path) -> dict[str, str]:
    """The environment of processes that have another package beside Drumfire."""
    folder = tmp_path / "packages"
    install(folder, "line-target", line="tests.support.line_target:LineTarget", http="os:getcwd")
    install(folder, "broken", broken="no_such_module:Target")
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}


@pytest.fixture
def service() -> Iterator[tuple[str, Counter[bytes]]]:
    seen: Counter[bytes] = Counter()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                seen[line] += 1
                self.wfile.write(b"OK\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"line://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_a_target_of_another_package_is_measured_like_any(
    more: list[str], path: dict[str, str], service: tuple[str, Counter[bytes]], tmp_path: Path
) -> None:
    url, seen = service
    what = ["--url", url, "--word", "one", "--word", "two", *more]
    result = result_of(drumfire("run", "line", "echo", *what, *SERVER, "--output", tmp_path / "out", env=path), 0)
    assert result["validity"] == "VALID"
    assert result["system"]["backend"] == "line"
    assert result["system"]["description"] == "a service of lines"
    assert result["system"]["remote"]["urls"] == [url]
    found = columns(tmp_path / "out")
    assert set(found["status"]) == {1}
    assert (found["sent"] >= found["issued"]).all()
    assert set(seen) == {b"one\n", b"two\n"}
    assert seen.total() >= len(found["status"])


@pytest.mark.slow
def test_its_report(path: dict[str, str], service: tuple[str, Counter[bytes]], tmp_path: Path) -> None:
    words = [word for word in SERVER if word != "--json"]
    done = drumfire("run", "line", "echo", "--url", service[0], *words, "--output", tmp_path / "out", env=path)
    assert done.returncode == 0, done.stderr
    assert "VALID" in done.stdout
    assert f"{service[0]} by drumfire, input data: 1 words" in done.stdout


def test_its_options_are_on_the_help_page_and_checked(path: dict[str, str]) -> None:
    assert "--word" in drumfire("run", "line", "--help", env=path).stdout
    one_line_error(drumfire("run", "line", "echo", "--word", "x", env=path), "line needs --url line://HOST:PORT")
    one_line_error(drumfire("run", "null", "digits", "--word", "x", env=path), "--word", "null", "line")


def test_a_broken_package_stops_only_what_uses_it(path: dict[str, str], tmp_path: Path) -> None:
    one_line_error(drumfire("run", "broken", "x", "--url", "http://h", env=path), "broken", "no_such_module", "remove")
    result = measured(drumfire("run", "null", "digits", *ONE, "--output", tmp_path / "out", env=path))
    assert result["delivered"]["samples"] > 0


def test_no_package_takes_the_name_of_a_kind_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "thief", triton="os:getcwd", other="json:dumps")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("drumfire.targets", {"triton": "drumfire.sut.remote.kserve.target:TritonTarget"})
    assert next(iter(registry)) == "triton"
    assert set(registry) == {"triton", "other"}
    assert "other" in registry
    assert "nothing" not in registry
    assert registry["triton"] is remote.TARGETS["triton"]
    assert registry["other"] is json.dumps
    with pytest.raises(KeyError):
        registry["nothing"]


def test_a_kind_that_cannot_be_imported_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "broken", broken="no_such_module:Target", lacking="json:nothing")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry = Registry("drumfire.targets", {})
    for name, why in (("broken", "no_such_module"), ("lacking", "nothing")):
        with pytest.raises(UserError, match=f"{name} comes from broken.*{why}"):
            registry[name]


# What a package's entry point names, and is no kind.


WRONG = """
from dataclasses import dataclass
from drumfire.sut.local.backends import onnxruntime
from drumfire.sut.models.digits import Digits
from drumfire.sut.remote.target import Target, TargetOptions

number = 5

class Half:
    DISTRIBUTIONS, FORM, EXTRAS, PRECISIONS, OPTIONS, load = (), None, {}, (), int, None

class NoOptions(Target):
    pass

class OtherOptions(Target):
    OPTIONS = int

@dataclass(frozen=True)
class Unknown(TargetOptions):
    x: "NoSuchType" = None

class UnknownOptions(Target):
    OPTIONS = Unknown

class Raising(Digits):
    def __init__(self):
        raise LookupError("no weights")
"""
PLACES = {
    "targets": {
        "number": "is not derived from Target", "NoOptions": "OPTIONS", "OtherOptions": "derived from TargetOptions",
        "UnknownOptions": "NoSuchType",
    },
    "backends": {"number": "5 has no DISTRIBUTIONS", "Half": "derived from BackendOptions"},
    "models": {"number": "5 has no name", "Raising": "LookupError: no weights", "": "has no name"},
}  # fmt: skip
REGISTRIES = {"targets": remote.TARGETS, "backends": backends.BACKENDS, "models": models.MODELS}


@pytest.fixture
def ruin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that names what is no kind, and one that ends the program; both are seen by this process."""
    (tmp_path / "wrong_kinds.py").write_text(WRONG)
    (tmp_path / "ending.py").write_text("raise SystemExit(5)")
    for group, places in PLACES.items():
        named = {f"bad-{group}-{at}": f"wrong_kinds:{place}".rstrip(":") for at, place in enumerate(places)}
        install(tmp_path, "wrong", group, **named)
        install(tmp_path, "ending", group, **{f"end-{group}": "ending"})
    monkeypatch.syspath_prepend(str(tmp_path))
    for registry in REGISTRIES.values():
        registry.__dict__.pop("_others", None)
    yield tmp_path
    for registry in REGISTRIES.values():
        registry.__dict__.pop("_others", None)


@pytest.mark.parametrize("group", PLACES)
def test_what_is_no_kind_is_named_where_it_is_used(group: str, ruin: Path) -> None:
    registry = REGISTRIES[group]
    for at, text in enumerate(PLACES[group].values()):
        with pytest.raises(UserError, match=f"bad-{group}-{at} comes from wrong, which cannot be used .*{text}"):
            registry[f"bad-{group}-{at}"]
    with pytest.raises(UserError, match=f"end-{group} comes from ending, which cannot be imported .SystemExit: 5.*"):
        registry[f"end-{group}"]
    assert registry.broken().keys() == registry.packages().keys()


def test_what_is_no_kind_breaks_no_other_command(ruin: Path, tmp_path: Path) -> None:
    run = measured(here("run", "null", "digits", *ONE, "--output", tmp_path / "out"))
    assert run["delivered"]["samples"] > 0
    assert json.loads(here("models", "--json").stdout)["broken"].keys() >= {"bad-models-0", "end-backends"}
    assert here("run", "--help").returncode == 0
    one_line_error(here("run", "bad-targets-0", "x", "--url", "http://h"), "bad-targets-0 comes from wrong", "remove")
    one_line_error(here("run", "end-backends", "digits"), "end-backends comes from ending", "SystemExit: 5")
    one_line_error(here("run", "onnxruntime", "bad-models-1"), "bad-models-1 comes from wrong", "no weights")


# Backends and models.


@pytest.fixture
def others(tmp_path: Path) -> dict[str, str]:
    """The environment of processes that have a package with a backend and a model, and one that is broken."""
    need("onnxruntime")
    folder = tmp_path / "packages"
    where = "tests.support.patient_plugin"
    install(folder, "patience", "backends", patient=where)
    install(folder, "patience", "models", **{"few-digits": f"{where}:FewDigits"})
    install(folder, "ruin", "backends", ruined="no_such_module")
    install(folder, "ruin", "models", rubble="no_such_module:Model")
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}


ONE = ["--scenario", "SingleStream", "--time", "0.2", "--no-dashboard", "--json"]


def measured(done: Done) -> dict[str, Any]:
    """A run that is so short that its queries may be too few."""
    assert done.returncode in (0, 1), done.stderr
    return result_of(done, done.returncode)


def test_a_backend_and_a_model_of_another_package(others: dict[str, str], tmp_path: Path) -> None:
    run = ["run", "patient", "few-digits", "--pause", "5"]
    result = measured(drumfire(*run, *ONE, "--output", tmp_path / "out", env=others))
    assert result["system"]["description"].startswith("5 ms of patience, then ")
    assert result["qsl_name"] == "few-digits"
    assert result["latency_ns"]["min"] >= 5_000_000
    accuracy = [*run, "--accuracy", "--no-dashboard", "--json", "--output", tmp_path / "accuracy"]
    judged = result_of(drumfire(*accuracy, env=others), 0)["accuracy"]
    assert (judged["total"], judged["met"]) == (100, True)


def test_they_are_combined_with_ours(others: dict[str, str], tmp_path: Path) -> None:
    for at, words in enumerate((["onnxruntime", "few-digits"], ["patient", "digits"])):
        result = measured(drumfire("run", *words, *ONE, "--output", tmp_path / str(at), env=others))
        assert result["errors"]["failed"] == 0
        assert result["delivered"]["samples"] > 0


def test_models_and_doctor_list_them(others: dict[str, str]) -> None:
    listing = json.loads(drumfire("models", "--json", env=others).stdout)
    assert listing["packages"] == {"patient": "patience", "few-digits": "patience", "ruined": "ruin", "rubble": "ruin"}
    assert listing["broken"].keys() == {"ruined", "rubble"}
    assert listing["models"][-1]["name"] == "few-digits"
    assert listing["models"][-1]["server_latency_ms"] == 70
    assert listing["backends"][-1]["name"] == "patient"
    shown = drumfire("models", env=others)
    assert shown.returncode == 0, shown.stderr
    assert "ruined comes from ruin, which cannot be imported" in shown.stdout
    found = {one["name"]: one for one in json.loads(drumfire("doctor", "--json", env=others).stdout)["findings"]}
    assert (found["backend patient"]["status"], found["model few-digits"]["value"]) == ("ok", "from patience")
    assert "ruin" in found["model rubble"]["mend"]
    assert found["backend ruined"]["status"] == "note"


def test_a_broken_one_is_one_line_and_stops_no_other(others: dict[str, str], tmp_path: Path) -> None:
    one_line_error(drumfire("run", "ruined", "digits", env=others), "ruined comes from ruin", "no_such_module")
    one_line_error(drumfire("run", "onnxruntime", "rubble", env=others), "rubble comes from ruin", "no_such_module")
    measured(drumfire("run", "onnxruntime", "digits", *ONE, "--output", tmp_path / "out", env=others))
