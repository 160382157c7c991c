"""Hosts on this machine: each with an address, a host name, processes, shared memory and temporary files of its own.

Network namespaces on a switch that lies in one more, so that nothing of it is in the machine's own network and no way
leads out.  A host's first process is what holds it up: its end is a power cut, and `cut` pulls the cable.  Needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from drumfire.loadgen.installation import ROOT

_COMMANDS = ("ip", "nsenter", "unshare", "mount")


def why_not() -> str | None:
    """Why there can be no such hosts here, if so."""
    if os.geteuid() != 0:
        return "makes network namespaces, which only root can"
    missing = [command for command in _COMMANDS if shutil.which(command) is None]
    if missing:
        return f"makes network namespaces with {', '.join(missing)}"
    probe = f"drumfire-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces can not be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "delete", probe], check=True)
    return None


class Host:
    """Number 1 is 10.88.0.1, and is called host1."""

    def __init__(self, net: Net, number: int) -> None:
        self.address, self.name = f"10.88.0.{number}", f"host{number}"
        self._net, self._port = net, f"p{number}"
        self.namespace = f"{net.prefix}-{number}"
        self.tmp = net.folder / "t"
        """Private, at the same place on every host."""
        net.ip("netns", "add", self.namespace)
        net.ip("-n", net.switch, "link", "add", self._port, "type", "veth", "peer", "eth0", "netns", self.namespace)
        net.ip("-n", net.switch, "link", "set", self._port, "master", "br0", "up")
        for link, *what in (("lo", "up"), ("eth0", "up")):
            net.ip("-n", self.namespace, "link", "set", link, *what)
        net.ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        script = (
            f"hostname {self.name} && mount -t tmpfs none /dev/shm && mount -t tmpfs none {self.tmp} && "
            f"mount --bind {net.folder}/hosts /etc/hosts && echo up && exec sleep infinity"
        )
        self._keeper = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--mount", "--pid", "--fork",
             "--kill-child=SIGKILL", "--mount-proc", "--uts", "--ipc", "sh", "-c", script],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "up\n"
        keeper = self._keeper.pid
        (self._first,) = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        self._pids = os.readlink(f"/proc/{self._first}/ns/pid")

    def popen(self, *command: object, environment: dict[str, str] | None = None, **more: Any) -> subprocess.Popen[str]:
        """Start something there.  The process is one that waits for it; see ``pid_of``."""
        inside = ["nsenter", "--target", self._first, "--net", "--mount", "--pid", "--uts", "--ipc", "--"]
        given = {"TMPDIR": str(self.tmp), "XDG_STATE_HOME": str(self.tmp / "state"), "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [*inside, *map(str, command)], text=True, env=os.environ | given | (environment or {}),
            cwd=self._net.folder, start_new_session=True, **more,
        )  # fmt: skip

    def drumfire(self, *arguments: object, **more: Any) -> subprocess.Popen[str]:
        return self.popen(
            sys.executable, "-m", "drumfire", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more
        )

    def done(self, *arguments: object, timeout: float = 120, **more: Any) -> subprocess.CompletedProcess[str]:
        """``drumfire`` there, to its end."""
        process = self.drumfire(*arguments, **more)
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def processes(self, word: str) -> list[int]:
        """Those of this host, alive, that have a word in their command, by the machine's own numbers."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError):
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == self._pids:
                    alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                    if alive and word.encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return sorted(found)

    def cut(self) -> None:
        """Pull the cable."""
        self._net.ip("-n", self._net.switch, "link", "set", self._port, "down")

    def power_off(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self._first), signal.SIGKILL)
        self._keeper.wait()


class Net:
    """``with Net(3) as net``: hosts 1 to 3, ``net.hosts``."""

    def __init__(self, hosts: int) -> None:
        # Of a short name: Ray's sockets have long ones, and there is not room for much before them.
        self.folder = Path(tempfile.mkdtemp(prefix="df-"))
        self.prefix = f"drumfire-{os.getpid()}-{id(self) & 0xFFFF:x}"
        self.switch = f"{self.prefix}-switch"
        self.hosts: list[Host] = []
        self._count = hosts

    def __enter__(self) -> Net:
        (self.folder / "t").mkdir()
        lines = [f"10.88.0.{number} host{number}" for number in range(1, self._count + 1)]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        try:
            self.ip("netns", "add", self.switch)
            self.ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
            self.ip("-n", self.switch, "link", "set", "br0", "up")
            for number in range(1, self._count + 1):
                self.hosts.append(Host(self, number))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.power_off()
        made = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        for name in made.split():
            if name.startswith(self.prefix):
                self.ip("netns", "delete", name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)
