"""The files that the pages name are there, and hold what the pages say is in them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ["bench", "docker", "docs", "drumfire", "examples", "loadgen", "sut", "tests", "training"]
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*")
HOLDS = re.compile(r"((?:`\w+`(?:, | and )?)+) in `([\w/]+\.py)`")
"""Names, and the file that they are in."""


def named(page: Path) -> list[str]:
    return [code for code in re.findall(r"`([^`\n]+)`", page.read_text()) if PATH.fullmatch(code)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    for path in named(page):
        # Of the path of a file that a reader will write, the folder.
        place = ROOT / path.partition("NAME")[0]
        assert place.exists(), path
        assert not path.endswith("/") or place.is_dir(), path


def test_the_page_on_changes_has_paths_that_are_checked() -> None:
    page = PAGES[0]
    assert len(named(page)) > 50
    files = {name for name in re.findall(r"`([\w./-]+\.\w+)`", page.read_text()) if (ROOT / name).suffix == ".py"}
    assert files <= set(named(page)), "write paths from the root"


def test_names_are_in_the_files_that_are_said_to_have_them() -> None:
    found = [pair for page in PAGES for pair in HOLDS.findall(page.read_text())]
    assert len(found) > 20
    for names, path in found:
        text = (ROOT / path).read_text()
        for name in re.findall(r"\w+", names.replace(" and ", ", ")):
            assert re.search(rf"^ *(?:def |class |async def )?{name}\b(?:[:(\[]| [=:])", text, re.M), (
                f"{name} in {path}"
            )
