"""Limits of control groups, read from a tree of files as the kernel shows them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from drumfire.loadgen import cgroups, limits
from drumfire.loadgen.overhead import GarbagePauses, Reading
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, SettingsError, TestSettings
from drumfire.sut.local.null import NullSystem, null_library

MB = 1_000_000
V2 = "31 23 0:27 {shown} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "33 32 0:30 {shown} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "34 32 0:31 {shown} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def tree(root: Path, groups: str, mounts: str, files: Mapping[str, str]) -> Path:
    written = {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts}
    written |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in written.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def unified(root: Path, files: Mapping[str, str], group: str = "/", shown: str = "/") -> Path:
    return tree(root, f"0::{group}\n", V2.format(shown=shown), files)


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroups.memory_room(tmp_path) is None
    assert cgroups.cpu_quota(tmp_path) is None
    assert cgroups.throttling(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "room"),
    [
        ({"memory.max": "120000000", "memory.high": "max", "memory.current": "50000000"}, 70 * MB),
        ({"memory.max": "120000000", "memory.high": "100000000", "memory.current": "50000000"}, 50 * MB),
        ({"memory.max": "max", "memory.high": "max", "memory.current": "50000000"}, None),
        ({"memory.max": "40000000", "memory.current": "50000000"}, 0),
        (
            {
                "memory.max": "120000000",
                "memory.current": "50000000",
                "memory.stat": "anon 1\ninactive_file 30000000\nactive_file 9\n",
            },
            100 * MB,
        ),
    ],
)
def test_memory_of_version_2(files: dict[str, str], room: int | None, tmp_path: Path) -> None:
    assert cgroups.memory_room(unified(tmp_path, files)) == room


def test_the_groups_above_limit_too(tmp_path: Path) -> None:
    files = {
        "a/memory.max": "90000000", "a/memory.current": "80000000",
        "a/b/memory.max": "50000000", "a/b/memory.current": "10000000",
        "a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000", "a/cpu.stat": "nr_throttled 3\nthrottled_usec 7\n",
        "a/b/cpu.stat": "nr_throttled 2\nthrottled_usec 5\n",
    }  # fmt: skip
    root = unified(tmp_path, files, "/a/b")
    assert cgroups.memory_room(root) == 10 * MB
    assert cgroups.cpu_quota(root) == 1.5
    assert cgroups.throttling(root) == (5, 12_000)


@pytest.mark.parametrize(("group", "shown"), [("/docker/c0", "/docker/c0"), ("/docker/c0", "/"), ("/../other", "/")])
def test_in_a_container_the_mount_shows_the_own_group(group: str, shown: str, tmp_path: Path) -> None:
    root = unified(
        tmp_path, {"memory.max": "100000000", "memory.current": "0", "cpu.max": "50000 100000"}, group, shown
    )
    assert cgroups.memory_room(root) == 100 * MB
    assert cgroups.cpu_quota(root) == 0.5


def test_version_1(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "9",
        "memory/c/memory.limit_in_bytes": "100000000", "memory/c/memory.usage_in_bytes": "60000000",
        "memory/c/memory.stat": "inactive_file 1\ntotal_inactive_file 20000000\n",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/c/cpu.cfs_quota_us": "25000", "cpu,cpuacct/c/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/c/cpu.stat": "nr_periods 5\nnr_throttled 4\nthrottled_time 123456\n",
    }  # fmt: skip
    root = tree(tmp_path, "4:memory:/c\n3:cpu,cpuacct:/c\n0::/\n", V1.format(shown="/"), files)
    assert cgroups.memory_room(root) == 60 * MB
    assert cgroups.cpu_quota(root) == 0.25
    assert cgroups.throttling(root) == (4, 123456)


def test_a_mount_whose_path_has_a_space(tmp_path: Path) -> None:
    mounts = V2.format(shown="/").replace("/sys/fs/cgroup", "/my\\040groups")
    root = tree(tmp_path, "0::/\n", mounts, {"../../../my groups/cpu.max": "200000 100000"})
    assert cgroups.cpu_quota(root) == 2


def table() -> Test:
    settings = TestSettings(scenario=Scenario.Offline, mode=Mode.PerformanceOnly, min_query_count=4_000_000)
    return Test(NullSystem(settings.mode), null_library(), settings)


def test_a_run_that_its_group_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "memory_room", lambda: 120 * MB)
    with pytest.raises(
        SettingsError, match=r"needs about .* GB .* and 0\.12 GB are available within its control group: "
    ):
        table()


def test_a_run_that_a_limit_of_addresses_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    used = limits._bytes_of("/proc/self/status").get("VmSize")
    if used is None:
        pytest.skip("no /proc")
    held = {resource.RLIMIT_AS: (used + 100 * MB, -1)}
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: held.get(which, (-1, -1)))
    with pytest.raises(SettingsError, match=r"GB are available under ulimit -v: "):
        table()


@pytest.mark.parametrize(("quota", "cores"), [(None, 16), (0.5, 1), (2.0, 2), (2.5, 3), (64.0, 16)])
def test_a_quota_is_worth_so_many_cores(quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: quota)
    assert limits.usable_cores() == cores


def test_a_throttled_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([cgroups.Throttling(10, 1_000_000_000), cgroups.Throttling(47, 2_200_000_000)] * 2)
    monkeypatch.setattr("drumfire.loadgen.overhead.throttling", lambda: next(found))
    overhead = Reading.now(GarbagePauses()).until(Reading.now(GarbagePauses()))
    assert overhead.throttled_s == pytest.approx(1.2)
    assert overhead.on_throttling == (
        "a quota of processor time stopped this run 37 times, for 1.2 s summed over the cores: raise the container's "
        "limit (docker: --cpus), or give the model fewer threads"
    )


def test_a_run_without_a_quota_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drumfire.loadgen.overhead.throttling", lambda: None)
    overhead = Reading.now(GarbagePauses()).until(Reading.now(GarbagePauses()))
    assert (overhead.throttled_s, overhead.on_throttling) == (None, None)


def test_where_even_a_short_run_does_not_fit_no_shorter_one_is_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "memory_room", lambda: 20 * MB)
    settings = TestSettings(mode=Mode.PerformanceOnly, min_query_count=10, max_query_count=10)
    with pytest.raises(SettingsError, match=r"and 0\.02 GB are available within its control group: give it more$"):
        Test(NullSystem(settings.mode), null_library(), settings)
