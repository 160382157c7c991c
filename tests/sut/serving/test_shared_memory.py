"""Regions of shared memory: bounds, names, tricks with keys; they are the clients' and stay theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.kserve.messages.exchange import Region
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.shared_memory import SharedBytes, SystemRegions


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


def read(place: SharedBytes) -> bytes:
    found = bytearray(len(place))
    place.read_into(memoryview(found))
    return bytes(found)


@pytest.mark.parametrize("offset", [0, 10, 4096, 5000])
def test_what_is_written_is_seen_by_both_sides(regions: SystemRegions, folder: Path, offset: int) -> None:
    regions.register("r", "/key", offset, 100)
    place = regions.place(Region("r", 10, 20))
    content = (folder / "key").read_bytes()
    assert read(place) == content[offset + 10 : offset + 30]
    place.write(b"ab")
    assert (folder / "key").read_bytes() == content[: offset + 10] + b"ab" + content[offset + 12 :]


def test_status_and_unregistering(regions: SystemRegions, folder: Path) -> None:
    regions.register("a", "/key", 0, 10)
    regions.register("b", "key", 16, 20)
    assert [one["name"] for one in regions.status()] == ["a", "b"]
    assert regions.status("b") == [{"name": "b", "key": "key", "offset": 16, "byte_size": 20}]
    place = regions.place(Region("a", 0, 4))
    open_files = len(os.listdir("/proc/self/fd"))
    regions.unregister("a")
    assert read(place) == bytes(range(4))  # a request under way goes on
    del place
    assert len(os.listdir("/proc/self/fd")) == open_files - 1
    refused(Status.NOT_FOUND, "shared memory region 'a' is not registered", regions.status, "a")
    refused(Status.INVALID_ARGUMENT, "shared memory region 'a' is not registered", regions.place, Region("a", 0, 1))
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
    refused(Status.INVALID_ARGUMENT, "has 100 bytes", regions.place, Region("r", offset, size))
    assert len(regions.place(Region("r", 0, 100))) == 100
    assert len(regions.place(Region("r", 100, 0))) == 0


def test_a_name_is_taken_once_and_their_number_is_bounded(folder: Path) -> None:
    regions = SystemRegions(folder, most=2)
    regions.register("a", "key", 0, 10)
    refused(Status.ALREADY_EXISTS, "'a' is registered already", regions.register, "a", "key", 0, 10)
    refused(Status.INVALID_ARGUMENT, "name", regions.register, "", "key", 0, 10)
    regions.register("b", "key", 0, 10)
    refused(Status.UNAVAILABLE, "2 regions", regions.register, "c", "key", 0, 10)


def test_memory_that_was_cut_short_is_an_error_of_whoever_uses_it(regions: SystemRegions, folder: Path) -> None:
    regions.register("r", "key", 0, 16384)
    whole, tail = regions.place(Region("r", 0, 4096)), regions.place(Region("r", 4000, 200))
    os.truncate(folder / "key", 4096)
    assert len(read(whole)) == 4096
    refused(Status.INVALID_ARGUMENT, "truncated", read, tail)
    refused(Status.INVALID_ARGUMENT, "truncated", tail.write, bytes(200))
    assert (folder / "key").stat().st_size == 4096


def test_an_output_must_fit_its_place(regions: SystemRegions) -> None:
    regions.register("r", "key", 0, 100)
    refused(
        Status.INVALID_ARGUMENT, "11 bytes does not fit in the 10", regions.place(Region("r", 0, 10)).write, bytes(11)
    )
