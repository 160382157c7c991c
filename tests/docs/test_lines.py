"""What the README and the pages say to type can be typed.

A ``sh`` block is run, in a folder of its own and with shorter times, unless ``*Needs: ...*`` stands above it.
The words of every line go through the parser of the command that they name.  A ``python`` block is part of an example.
"""

import argparse
import importlib
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from drumfire.bench import cli
from drumfire.bench.commands import run_local
from tests.support import command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^\*Needs: (?P<needs>[^\n]+)\.\*\n\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
NOT_OURS = {"--ipc", "--resume", "--concurrency-range"}
"""Options in the text that are docker's, the training harness's, and perf_analyzer's."""


class Block(NamedTuple):
    page: Path
    line: int
    kind: str
    needs: str | None
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [words for line in joined if (words := shlex.split(line, comments=True))]


def blocks(kind: str) -> list[Any]:
    return [pytest.param(block, id=block.name) for page in PAGES for block in _blocks(page) if block.kind == kind]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        yield Block(page, line, match["kind"], match["needs"], match["text"])


class Parsed(BaseException):
    """Thrown when a command has understood its words, so that it goes no further."""


@pytest.fixture
def understand(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the command take its words, and nothing more."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *arguments: Any) -> None:
        raise Parsed(real(self, *arguments))

    def check(words: Sequence[str]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
            patch.setattr(signal, "signal", lambda *_: None)
            patch.setattr(sys, "argv", list(words))
            match words:
                case ["drumfire", *rest]:
                    _understood(rest)
                case ["./run_local.sh", *rest]:
                    backend, model, device, options = run_local.parsed(rest)
                    command.options("run", backend, model, *filter(None, [device]), *options)
                case _:
                    with pytest.raises(Parsed):
                        _start(words)

    return check


def _understood(words: Sequence[str]) -> None:
    """Take the words of a command of ours; what other words mean is asked of the program."""
    if any(word in words for word in ("--help", "--print-config", "--config")):
        done = command.here(*words)
        assert done.returncode == 0, done.stderr
    else:
        command.options(*words)


def _start(words: Sequence[str]) -> None:
    """Start a program of ours in this process."""
    match words:
        case ["python", "-m", "drumfire.training.benchmark", *rest]:
            _training()
            benchmark = importlib.import_module("drumfire.training.benchmark")
            own, others = benchmark.parse_some("drumfire.training.benchmark", None, benchmark.Options, rest)
            importlib.import_module("drumfire.training.__main__").main([own.task, *others])
        case ["python", "-m", "drumfire.loadgen.compat", *rest]:
            sys.argv[1:] = rest
            importlib.import_module("drumfire.loadgen.compat.__main__").main()
        case ["python", "-m", module, *rest]:
            if module.startswith("drumfire.training"):
                _training()
            found = importlib.import_module(module)
            if hasattr(found, "__path__"):
                found = importlib.import_module(f"{module}.__main__")
            found.main(rest)
        case ["torchrun", *rest]:
            _training()
            at = rest.index("-m")
            assert rest[at + 1] == "drumfire.training"
            launcher = importlib.import_module("torch.distributed.run").get_args_parser()
            launcher.parse_known_args(rest[: at + 2])
            importlib.import_module("drumfire.training.__main__").main(rest[at + 2 :])
        case _:
            pytest.fail(f"no rule for: {shlex.join(words)}")


def _training() -> None:
    pytest.importorskip("mlperf_logging", reason="needs the extra train")


def test_the_pages_have_blocks() -> None:
    """Guards the pattern: a block that it misses would be checked by nobody."""
    fences = sum(len(re.findall(r"^ *```\w*$", page.read_text(), re.M)) for page in PAGES)
    found = [block for page in PAGES for block in _blocks(page)]
    assert fences == 2 * len(found)
    assert {block.kind for block in found} <= {"sh", "python", "text", "toml"}
    marks = sum(page.read_text().count("*Needs: ") for page in PAGES)
    assert marks == sum(block.needs is not None for block in found)


@pytest.mark.parametrize("block", blocks("sh"))
def test_words_are_understood(block: Block, understand: Any) -> None:
    for words in block.commands:
        match words:
            case ["make", *rest]:
                done = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
            case ["pip", "install", "-c", constraints, "-e", what]:
                extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
                assert (ROOT / constraints).is_file()
                assert set(what.removeprefix(".[").removesuffix("]").split(",")) <= extras.keys()
            case [".", ".venv/bin/activate"]:
                pass
            case ["mkdir", "-p", _]:
                pass
            case ["python", script, *_] if script.endswith(".py"):
                assert (ROOT / script).is_file()
            case [script] if script.endswith(".sh"):
                assert (ROOT / script).is_file()
            case _:
                understand(words)


@pytest.mark.parametrize("block", [p for p in blocks("sh") if p.values[0].needs is None])
def test_lines_run(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ran = 0
    for words in block.commands:
        short = _shortened(words)
        match short:
            case ["drumfire", command, *_]:
                # A machine that is busy makes a short run INVALID (1), and the doctor complain.
                assert cli.main(short[1:]) in (0, 1), capsys.readouterr().err
                ran += command == "run"
                assert len(list(tmp_path.glob("runs/*/result.json"))) == ran
            case ["python", *rest]:
                done = subprocess.run([sys.executable, *rest], capture_output=True, text=True, check=False, timeout=120)
                assert done.returncode in (0, 1), done.stderr
                assert done.stderr == ""
            case ["mkdir", "-p", folder]:
                Path(folder).mkdir(parents=True)
            case ["make" | ".", *_]:
                pass  # the tests are started by make, in an environment that it has made
            case _:
                pytest.fail(f"not run, and no mark says what it needs: {shlex.join(words)}")


def _shortened(words: list[str]) -> list[str]:
    match words:
        case ["drumfire", "run", *_] if "--time" in words:
            at = words.index("--time") + 1
            # Without a rate Offline draws for some seconds more than it is asked for.
            few = ["--qps", "1000"] if "Offline" in words else []
            return [*words[:at], "0.3", *words[at + 1 :], *few, "--no-dashboard"]
        case ["drumfire", "run", *_]:
            assert "--accuracy" in words, "a run without --time lasts ten minutes"
            return [*words, "--no-dashboard"]
        case ["drumfire", "calibrate", *_]:
            return [*words, "--scenario", "Server", "--qps", "1000", "--time", "0.1"]
        case ["python", *_] if re.fullmatch(r"\d+", words[-1]):
            return [*words[:-1], "0.3"]
    return words


@pytest.mark.parametrize("block", blocks("python"))
def test_python_is_part_of_an_example(block: Block) -> None:
    """But for its indentation and empty lines."""
    part = _bare(block.text)
    assert any(part in _bare(example.read_text()) for example in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("block", blocks("toml"))
def test_toml_names_entry_points_that_are_read(block: Block) -> None:
    groups = tomllib.loads(block.text)["project"]["entry-points"]
    assert groups.keys() <= {"drumfire.backends", "drumfire.models", "drumfire.targets", "drumfire.metrics"}


def _bare(text: str) -> str:
    return "\n" + "".join(f"{line.strip()}\n" for line in text.splitlines() if line.strip())


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Every option of the command line, from its help."""
    pages = (command.here(*path, "--help").stdout for path in command.paths())
    return set(re.findall(r"--[a-z][a-z-]*", "".join(pages)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_the_text_exist(page: Path, options: set[str], understand: Any) -> None:
    text = BLOCK.sub("", page.read_text())
    for code in re.findall(r"`([^`\n]+)`", text):
        if code.startswith("--"):
            assert re.match(r"--[a-z-]+", code)[0] in options | NOT_OURS, code
        elif re.match(r"drumfire \S+ .*\S", code) and "--help" not in code:
            understand(shlex.split(code))


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 20
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_table_of_backends_is_the_programs() -> None:
    from drumfire.bench.commands import models

    table = [line for line in models.table().splitlines() if line.startswith("|")]
    assert "\n".join(table) in (ROOT / "docs" / "models.md").read_text()
    listed = set(re.findall(r"^\| `([\w-]+)`(?:, `([\w-]+)`)? \| ", (ROOT / "docs" / "models.md").read_text(), re.M))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras.keys() - {"test", "lint", "docs"} <= {name for pair in listed for name in pair}
