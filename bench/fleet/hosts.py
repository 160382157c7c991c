"""Crews on other hosts, through Ray; each call has a time limit of our own.

Only this module uses Ray, and imports it when needed.  A generator never imports Ray.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from drumfire.bench.fleet import clock, head
from drumfire.bench.fleet.assignment import Assignment
from drumfire.bench.fleet.child import Child, Part, Sighting
from drumfire.bench.fleet.supervisor import Supervisor
from drumfire.loadgen import installation
from drumfire.loadgen.errors import UserError, one_line
from drumfire.loadgen.traffic import Phase
from drumfire.sut.local.silence import silenced

_CONNECT_S = 30.0
_READY_S = 30.0
"""How long the cluster may take to start a supervisor on each host."""
_ASK_S = 10.0
_COLLECT_S = 120.0
_CLOSE_S = 8.0
_HEARD_S = 2.0
_NAMESPACE = "drumfire"

Traffic = Callable[[Assignment], Sequence[Phase]]
"""The phases of an assignment's part."""


def reach(groups: Sequence[Sequence[Assignment]], traffic: Traffic, address: str | None) -> list[RayCrew]:
    """A crew for each group of assignments, each on another host, which is sent its part of the ``traffic``.

    Raises ``UserError`` where Ray is missing, or the cluster cannot be joined or has too few hosts.
    """
    ray = _connect(address)
    try:
        return _place(ray, groups, traffic)
    except BaseException:
        _disconnect(ray)
        raise


def hosts_of(address: str | None) -> list[dict[str, Any]]:
    """The hosts of a cluster: address, name, cores, alive.  Raises ``UserError``."""
    ray = _connect(address)
    try:
        return [
            {
                "address": node["NodeManagerAddress"],
                "name": node["NodeManagerHostname"],
                "cores": node["Resources"].get("CPU", 0),
                "alive": node["Alive"],
            }
            for node in ray.nodes()
        ]
    finally:
        _disconnect(ray)


class RayCrew:
    """The generators of another host, through its supervisor."""

    children: Sequence[Child] = ()

    def __init__(
        self,
        ray: Any,
        actor: Any,
        name: str,
        assignments: Sequence[Assignment],
        traffic: Traffic,
        done: Callable[[], None],
    ) -> None:
        """``done`` is called when this crew no longer needs the cluster."""
        self.name, self.assignments, self.clock = name, assignments, clock.OURS
        self._ray, self._actor, self._traffic, self._done = ray, actor, traffic, done
        self._seen: list[Sighting] = []
        self._seen_s = time.monotonic()
        self._gone: str | None = None

    def launch(self) -> None:
        self.clock = clock.compare(time.time_ns, lambda: int(self._ask(self._actor.now.remote())))
        parts = [list(self._traffic(assignment)) for assignment in self.assignments]
        self._ask(self._actor.launch.remote(self.name, list(self.assignments), parts))
        self._seen_s = time.monotonic()
        threading.Thread(target=self._watch, name=f"watch {self.name}", daemon=True).start()

    def look(self) -> list[Sighting]:
        """The state that the host sent last.  Its age grows from its arrival, so a cut cable shows as silence."""
        age_s = time.monotonic() - self._seen_s
        return [replace(one, silent_s=one.silent_s + age_s, gone=one.gone or self._gone) for one in self._seen]

    def begin(self, unix_ns: int) -> None:
        self._actor.begin.remote(unix_ns + self.clock.offset_ns)

    def beat(self) -> None:
        if self._gone is None:
            self._actor.beat.remote()

    def stop(self, reason: str) -> None:
        self._actor.stop.remote(reason)

    def kill(self, part: int) -> None:
        self._actor.kill.remote(part)

    def collect(self, number: int) -> list[Part]:
        """Empty where the host can no longer be asked."""
        if not self._is_heard:
            return []
        try:
            parts: list[Part] = self._ray.get(self._actor.collect.remote(number), timeout=_COLLECT_S)
        except self._ray.exceptions.RayError:
            return []
        return parts

    def close(self) -> None:
        if self._is_heard:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.get(self._actor.close.remote(), timeout=_CLOSE_S)
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)
        self._done()

    @property
    def _is_heard(self) -> bool:
        """Whether an answer can be expected."""
        return self._gone is None and time.monotonic() - self._seen_s < _HEARD_S

    def _ask(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference, timeout=_ASK_S)
        except self._ray.exceptions.RayError as error:
            raise UserError(f"{self.name} does not answer: {one_line(error, 300)}") from None

    def _watch(self) -> None:
        try:
            for reference in self._actor.watch.options(num_returns="streaming").remote():
                self._seen = self._ray.get(reference)
                self._seen_s = time.monotonic()
        except self._ray.exceptions.RayError as error:
            self._gone = f"its host is gone ({type(error).__name__})"


def _connect(address: str | None) -> Any:
    """Join the cluster as a driver; returns Ray's module.

    Ray itself may wait for minutes, or forever where only one side uses TLS.
    """
    address = address or head.head_of_this_host()
    head.prepare_driver(address)
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError(f"--hosts needs Ray, which is not installed: {installation.command('multihost')}") from None
    if address is not None:
        head.check_there(address)

    # A thread of Ray's would print messages about hosts between our lines; no option turns that off.
    vars(importlib.import_module("ray._private.worker"))["print_to_stdstream"] = lambda *_, **__: None

    def init() -> None:
        ray.init(
            address=address or "auto",
            namespace=_NAMESPACE,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            include_dashboard=False,
        )

    try:
        with silenced():
            connected = _within(_CONNECT_S, init)
        if not connected:
            raise UserError(
                f"no answer from the Ray cluster at {address or 'this host'} within {_CONNECT_S:g} s: is "
                "--ray-address right, and do both sides use TLS, or neither?"
            )
    except UserError:
        raise
    except Exception as error:  # Ray raises many kinds; nothing has begun yet
        raise UserError(_why_not(error, address)) from None
    return ray


def _within(seconds: float, call: Callable[[], object]) -> bool:
    """Run ``call`` in a thread; returns whether it ended in time.

    Raises what it raises.  A call that hangs is left to its thread.
    """
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    return not thread.is_alive()


def _why_not(error: Exception, address: str | None) -> str:
    text, where = one_line(error, 300), address or "this host"
    if "ersion mismatch" in text:
        return f"the cluster at {where} has other versions than this process: {text}"
    if address is not None and isinstance(error, ConnectionError):  # something listens there, as was checked before
        return f"the cluster at {where} refuses this host: copy its token to {head.token_path()}"
    return f"cannot join a Ray cluster at {where}: {text} (drumfire cluster up starts one)"


def _place(ray: Any, groups: Sequence[Sequence[Assignment]], traffic: Traffic) -> list[RayCrew]:
    placement = importlib.import_module("ray.util.placement_group")
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    cores = max(len(group) for group in groups)
    alive = [node for node in ray.nodes() if node["Alive"]]
    fit = sum(node["Resources"].get("CPU", 0) >= cores for node in alive)
    group = placement.placement_group([{"CPU": cores}] * len(groups), strategy="STRICT_SPREAD")
    # Cores that others use may soon be free, so wait for those; hosts that do not exist are not worth a wait.
    if fit < len(groups) or not group.wait(_READY_S):
        placement.remove_placement_group(group)
        free = "free " if fit >= len(groups) else ""
        raise UserError(
            f"--hosts {len(groups)}: the cluster has {fit} hosts of {cores} {free}cores each ({len(alive)} in all; "
            "a head sends load only with --load-on-head): lower --hosts, or join more hosts"
        )
    left = len(groups)
    lock = threading.Lock()

    def done() -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            with contextlib.suppress(Exception):  # the run is over; a failing cluster no longer matters
                placement.remove_placement_group(group)
            _disconnect(ray)

    made = ray.remote(Supervisor)
    crews = []
    for at, assignments in enumerate(groups):
        strategy = strategies.PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=at)
        actor = made.options(
            num_cpus=cores, max_restarts=0, max_task_retries=0, max_concurrency=8, scheduling_strategy=strategy
        ).remote()
        crews.append(RayCrew(ray, actor, f"host {at}", assignments, traffic, done))
    return crews


def _disconnect(ray: Any) -> None:
    """Leave the cluster; waits for at most ``_CLOSE_S``, as its head may be gone."""
    with silenced():
        _within(_CLOSE_S, ray.shutdown)
