"""Regions of shared memory: bounds, names, tricks with keys; they are the clients' and stay theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.kserve.messages.exchange import Region
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.shared_memory import SystemRegions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shm"
    made.mkdir()
    (made / "key").write_bytes(bytes(range(256)) * 64)
    return made


@pytest.fixture
def regions(folder: Path) -> SystemRegions:
    return SystemRegions(folder)


def refused(status: Status, words: str, act: object, *arguments: object) -> None:
    with pytest.raises(Refusal, match=words) as error:
        act(*arguments)  # type: ignore[operator]
    assert error.value.status is status
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("offset", [0, 10, 4096, 5000])
def test_what_is_written_is_seen_by_both_sides(regions: SystemRegions, folder: Path, offset: int) -> None:
    regions.register("r", "/key", offset, 100)
    view = regions.view(Region("r", 10, 20))
    content = (folder / "key").read_bytes()
    assert view == content[offset + 10 : offset + 30]
    view[:2] = b"ab"
    assert (folder / "key").read_bytes()[offset + 10 : offset + 12] == b"ab"


def test_status_and_unregistering(regions: SystemRegions, folder: Path) -> None:
    regions.register("a", "/key", 0, 10)
    regions.register("b", "key", 16, 20)
    assert [one["name"] for one in regions.status()] == ["a", "b"]
    assert regions.status("b") == [{"name": "b", "key": "key", "offset": 16, "byte_size": 20}]
    view = regions.view(Region("a", 0, 4))
    open_files = len(os.listdir("/proc/self/fd"))
    regions.unregister("a")
    assert len(os.listdir("/proc/self/fd")) == open_files - 1
    assert bytes(view) == bytes(range(4))  # a request under way goes on
    refused(Status.NOT_FOUND, "shared memory region 'a' is not registered", regions.status, "a")
    refused(Status.INVALID_ARGUMENT, "shared memory region 'a' is not registered", regions.view, Region("a", 0, 1))
    regions.unregister("a")
    regions.unregister()
    assert regions.status() == []
    assert (folder / "key").exists()


@pytest.mark.parametrize(
    "key", ["", "/", "..", "/..", ".", "/../secret", "a/b", "/a/b", "//key", "no\0such", "x" * 300, "/nothere"]
)
def test_keys_that_are_no_name_are_refused(regions: SystemRegions, folder: Path, key: str) -> None:
    (folder.parent / "secret").write_bytes(bytes(100))
    refused(Status.INVALID_ARGUMENT, ".+", regions.register, "r", key, 0, 10)
    assert regions.status() == []


def test_links_folders_and_pipes_are_refused(regions: SystemRegions, folder: Path) -> None:
    (folder.parent / "secret").write_bytes(bytes(100))
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "inside").mkdir()
    os.mkfifo(folder / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for key in ("link", "inside", "pipe"):
        refused(Status.INVALID_ARGUMENT, key, regions.register, "r", key, 0, 10)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 16385), (16384, 1), (1 << 62, 1), (0, 1 << 62), (0, 0), (-1, 10), (5, -5)]
)
def test_a_region_must_lie_within_the_memory(regions: SystemRegions, offset: int, size: int) -> None:
    refused(Status.INVALID_ARGUMENT, ".+", regions.register, "r", "key", offset, size)


@pytest.mark.parametrize(("offset", "size"), [(0, 101), (100, 1), (90, 11), (1 << 62, 1), (-1, 5), (0, -1)])
def test_a_tensor_must_lie_within_the_region(regions: SystemRegions, offset: int, size: int) -> None:
    regions.register("r", "key", 0, 100)
    refused(Status.INVALID_ARGUMENT, "has 100 bytes", regions.view, Region("r", offset, size))
    assert len(regions.view(Region("r", 0, 100))) == 100
    assert len(regions.view(Region("r", 100, 0))) == 0


def test_a_name_is_taken_once_and_their_number_is_bounded(folder: Path) -> None:
    regions = SystemRegions(folder, most=2)
    regions.register("a", "key", 0, 10)
    refused(Status.ALREADY_EXISTS, "'a' is registered already", regions.register, "a", "key", 0, 10)
    refused(Status.INVALID_ARGUMENT, "name", regions.register, "", "key", 0, 10)
    regions.register("b", "key", 0, 10)
    refused(Status.UNAVAILABLE, "2 regions", regions.register, "c", "key", 0, 10)


def test_memory_that_was_cut_short_is_refused_rather_than_touched(regions: SystemRegions, folder: Path) -> None:
    regions.register("r", "key", 0, 16384)
    os.truncate(folder / "key", 4096)
    refused(Status.INVALID_ARGUMENT, "truncated", regions.view, Region("r", 4000, 200))
    assert len(regions.view(Region("r", 0, 4096))) == 4096
