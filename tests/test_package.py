"""One name: what ``import drumfire`` finds in a checkout, in a wheel, and in a folder with a ``bench/`` of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import drumfire
from drumfire.loadgen import environment, run
from drumfire.loadgen.installation import ROOT

FOLDERS = ("bench", "loadgen", "sut", "training")
LOAD_ALL = """
import collections, importlib, json, pathlib, pkgutil, sys
import drumfire
skipped = []
for module in pkgutil.walk_packages(drumfire.__path__, "drumfire."):
    if module.name.endswith("__main__") or ".repository" in module.name:
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        skipped.append(f"{module.name}: {error}")
names = collections.defaultdict(list)
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and "site-packages" not in file:
        names[str(pathlib.Path(file).resolve())].append(name)
print(json.dumps({"names": names, "skipped": skipped}))
"""


def test_the_face() -> None:
    assert all(getattr(drumfire, name) is not None for name in drumfire.__all__)
    assert drumfire.Test is run.Test
    assert set(drumfire.__all__) <= set(dir(drumfire))
    with pytest.raises(AttributeError, match="nothing"):
        drumfire.nothing  # noqa: B018


def test_importing_the_face_costs_nothing() -> None:
    code = "import sys, drumfire; assert not {'numpy', 'asyncio', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_no_module_is_loaded_under_two_names() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD_ALL], check=True, cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    ours = {file: names for file, names in found["names"].items() if Path(file).is_relative_to(ROOT)}
    assert len(ours) > 200, found["skipped"]
    assert {file: names for file, names in ours.items() if len(names) > 1} == {}
    assert [names for names in ours.values() if names[0].partition(".")[0] in FOLDERS] == []


def tracked() -> set[str]:
    """The files that git tracks and a wheel has, by their path in the wheel."""
    listed = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, check=True, capture_output=True, text=True)
    return {f"drumfire/{file}" for file in listed.stdout.splitlines() if not file.startswith("bench/peers/")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a source archive, as a package index would have it."""
    folder = tmp_path_factory.mktemp("wheel")
    tools = folder / "tools"
    subprocess.run([sys.executable, "-m", "venv", tools], check=True)
    pip = [tools / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "hatchling"], check=True)
    subprocess.run([tools / "bin" / "hatchling", "build", "-t", "sdist", "-d", folder], check=True, cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, archive], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
class TestWheel:
    def test_it_has_every_file_but_the_comparisons(self, wheel: Path) -> None:
        if not (ROOT / ".git").exists():
            pytest.skip("only a git checkout knows which files it tracks")
        with zipfile.ZipFile(wheel) as files:
            names = {name for name in files.namelist() if ".dist-info/" not in name}
        face = {f"drumfire/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}
        assert names == tracked() | face

    def test_the_archive_can_be_installed_editable(self, wheel: Path, tmp_path: Path) -> None:
        (archive,) = wheel.parent.glob("*.tar.gz")
        subprocess.run(["tar", "-xzf", archive, "-C", tmp_path], check=True)
        (unpacked,) = tmp_path.iterdir()
        python = wheel.parent / "tools" / "bin" / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "--editable", unpacked], check=True)
        found = "import drumfire.bench.cli; print(drumfire.bench.cli.__file__)"
        done = subprocess.run([python, "-c", found], cwd=wheel.parent, check=True, capture_output=True, text=True)
        assert Path(done.stdout.strip()).is_relative_to(unpacked)

    def test_a_wheel_of_a_checkout_carries_its_revision(self, tmp_path: Path) -> None:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path)]
        subprocess.run([*pip, str(ROOT)], check=True)
        (built,) = tmp_path.glob("*.whl")
        with zipfile.ZipFile(built) as files:
            told = files.read("drumfire/loadgen/revision.txt").decode().strip()
        assert told == environment.git_revision()

    def test_beside_folders_of_the_same_names(self, wheel: Path, tmp_path: Path) -> None:
        """Installed where the user has a ``bench/`` and a ``training/``: ours run, theirs stay theirs."""
        theirs = tmp_path / "theirs"
        for name in ("bench", "training"):
            (theirs / name).mkdir(parents=True)
            (theirs / name / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
        python = tmp_path / "env" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-c", ROOT / "constraints.txt", wheel], check=True)
        run = ["run", "null", "digits", "--scenario", "SingleStream", "--time", "0.2", "--no-dashboard", "--json"]
        for program in ([python.with_name("drumfire")], [python, "-m", "drumfire"]):
            done = subprocess.run([*program, *run], cwd=theirs, capture_output=True, text=True, check=False)
            assert json.loads(done.stdout)["metric"] is not None, done.stderr
        subprocess.run([python, "-m", "drumfire.loadgen.compat", "--help"], cwd=theirs, check=True, capture_output=True)
        where = "import drumfire.loadgen; print(drumfire.__file__)"
        found = subprocess.run([python, "-c", where], cwd=theirs, check=True, capture_output=True, text=True)
        assert "site-packages" in found.stdout
