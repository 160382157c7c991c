"""What all targets have: a model on servers, reached by some protocol over TCP.

A target says all that is particular to its protocol: its options, how the model is described, what is sent, what the
servers report.  Those who use it do not know which target it is.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from drumfire.loadgen.advice import Bound
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.options import option
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.loadgen.wording import counted
from drumfire.sut.data.inputs import Inputs
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.models.model import Judge, Model
from drumfire.sut.remote.endpoint import Endpoint, Security, parse_url
from drumfire.sut.remote.samples import Int64Array, RemoteLibrary
from drumfire.sut.remote.watch import RemoteClient, RunWatch
from drumfire.sut.remote.wire import ANSWER_PATIENCE_S
from drumfire.sut.sampler import MeterPlan

_PERFORMANCE_COUNT = 500
"""Samples in memory, if there are that many and the user does not say otherwise."""
_IN_FLIGHT = 64
"""Most requests under way where neither the scenario nor the user sets a bound."""


def by_concurrency(most: int, *, batched: bool) -> Bound:
    """``most``: requests that may be under way."""
    awaited = f"the reply to another, as at most {counted(most, 'request')} may be under way"
    return Bound("--concurrency", most, batched, awaited)


@dataclass(frozen=True)
class TargetOptions:
    """The options of every target; each declares further ones in its own file."""

    TITLE: ClassVar = "remote servers"

    url: tuple[str, ...] = option(
        (),
        metavar="URL",
        help="the server's address, such as grpc://HOST:8001 or http://HOST:8000, or grpcs:// and https:// over TLS; "
        "repeat it for several servers",
    )
    concurrency: int | None = option(
        None,
        most=1e6,
        help="--loop closed: queries under way (default: 1); else most requests under way (default: Offline 64, and "
        "Server 64 through tritonclient; else no bound but --connections)",
    )
    connections: int | None = option(
        None,
        most=65535,
        help="connections to each server (default: gRPC 1; HTTP, where each carries one request at a time, 1 in "
        "SingleStream, 1 for each sample in MultiStream, else 64 or --concurrency)",
    )
    balance: str = option(
        "round-robin",
        metavar="HOW",
        choices=("round-robin", "least-in-flight"),
        help="which connection takes the next request: round-robin or least-in-flight",
    )
    request_timeout: float | None = option(
        None, metavar="S", help="a request without a reply after S seconds fails (default: no timeout; see --patience)"
    )
    max_message_size: int = option(64, metavar="MB", help="largest reply to accept, MiB")
    header: tuple[str, ...] = option(
        (), metavar="'NAME: VALUE'", help="sent with every request, such as 'authorization: Bearer TOKEN'"
    )
    tls_ca: Path | None = option(None, help="certificates to trust (default: the system's)")
    tls_cert: Path | None = option(None, help="client certificate, if the server requires one")
    tls_key: Path | None = option(None, needs=("tls_cert",), help="the key of --tls-cert")

    @property
    def needs_same_host(self) -> str:
        """The name of an option that was given and works only with a server on this host; empty if there is none."""
        return ""


@dataclass(frozen=True)
class Amounts:
    """What a user says of the samples of any target."""

    dataset_path: Path | None = None
    count: int | None = None
    """Use only the first samples of the data set."""
    performance_sample_count: int | None = None


T = TypeVar("T")
AnyOptions = TypeVar("AnyOptions", bound=TargetOptions)


class Target(ABC, Generic[AnyOptions]):
    """A model on servers: describes the model, builds its library and makes its system, in this order, once each.

    What a user has to fix raises ``UserError``, in the construction if it can be seen without asking the servers.
    """

    OPTIONS: ClassVar[type[TargetOptions]]
    URL_HELP: ClassVar[str]
    """How to write ``--url``, for whoever left it out."""

    unbounded: Sequence[Scenario] = (Scenario.Offline,)
    """The scenarios in which only ``--concurrency``, or a default, bounds the requests under way."""
    batch_size = 1
    """Most samples in a request."""
    alike = True
    """Whether any samples can share a request."""
    distributions: Sequence[str] = ()
    """The packages whose versions belong in the result."""
    named: Model | None = None
    """The named model whose data set is sent; None for other data."""
    judge: Judge | None = None
    """Judges the answers: the named model, or the user's labels; None if they are not judged."""
    never_judges: ClassVar[bool] = False
    """Whether ``judge`` is None whatever the options."""
    unjudged = "this target has no labels: leave it out"
    """What to do about an accuracy run without ``judge``."""

    def __init__(self, backend: str, model: str, options: AnyOptions, amounts: Amounts) -> None:
        """``backend`` and ``model``: the first words of the command line."""
        self.name, self.model, self.options, self.amounts = f"{backend} {model}", model, options, amounts
        self.notes: list[str] = []
        """Shown to the user before the run."""
        self.patience_s = ANSWER_PATIENCE_S
        """What is left for the rest of the check before the run."""
        urls = [url for option in options.url for url in self.urls_of(option)]
        if not urls:
            raise UserError(f"{backend} needs --url {self.URL_HELP}")
        self.urls: Sequence[str] = urls
        """One for each of ``endpoints``, for people."""
        self.endpoints = list(map(self.endpoint, urls))
        if len({endpoint.scheme for endpoint in self.endpoints}) > 1:
            raise UserError("--url: all servers of a run must use the same protocol")
        if len(set(self.endpoints)) < len({url.rstrip("/") for url in urls}):
            raise UserError("--url: a run takes one path of each server: measure several paths in a run each")
        if len(set(self.endpoints)) < len(self.endpoints):
            raise UserError("--url: a server is named twice; use --connections for more connections to it")
        tls = {"--tls-ca": options.tls_ca, "--tls-cert": options.tls_cert, "--tls-key": options.tls_key}
        given = [name for name, path in tls.items() if path is not None]
        if given and not self.endpoints[0].tls:
            secure = f"{self.endpoints[0].scheme}s://"
            raise UserError(f"{given[0]} has no effect on {urls[0]}: give {secure}, or leave it out")
        self.security = Security.of(options.tls_ca, options.tls_cert, options.tls_key, options.header)

    def urls_of(self, option: str) -> Sequence[str]:
        """The URLs in one ``--url``."""
        return option.split(",")

    def endpoint(self, url: str) -> Endpoint:
        return parse_url(url)

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what asks the servers before a run; all of it together takes at most ``ANSWER_PATIENCE_S``.

        Raises ``ServerError`` when it takes longer, and what ``work`` raises.
        """

        async def bounded() -> T:
            try:
                async with asyncio.timeout(self.patience_s):
                    return await work
            except TimeoutError as error:
                cancelled = error.__cause__ or error.__context__  # Python 3.11.2 sets the latter only
                (awaited,) = getattr(cancelled, "__notes__", [])[:1] or [", ".join(self.urls)]
                raise ServerError(
                    f"the check before the run took more than {ANSWER_PATIENCE_S:g} s, the last of it for {awaited}: "
                    "is the server overloaded, and is it what the URL says?"
                ) from None

        began_s = time.monotonic()
        try:
            return run_on_fast_loop(bounded())
        finally:
            self.patience_s = max(self.patience_s - (time.monotonic() - began_s), 1.0)

    @abstractmethod
    def describe(self) -> str:
        """Ask the servers about the model; returns what computes, as a phrase for the result."""

    @abstractmethod
    def library(self, settings: TestSettings) -> RemoteLibrary:
        """The samples, as requests that are ready to send once they are loaded."""

    @abstractmethod
    def system(self, settings: TestSettings, library: RemoteLibrary) -> RemoteClient:
        """Sends the library's requests."""

    def advice(self, error: str) -> str:
        """What helps where the check before a run fails with this error, to follow it; empty if nothing is known."""
        return ""

    def facts(self) -> dict[str, Any]:
        """Entries of the result's section on how servers were spoken to, where they are not the usual ones."""
        return {}

    def elements(self, library: RemoteLibrary) -> Int64Array | None:
        """The size of each sample, such as the tokens of a text, where samples differ: shape (total count,)."""
        return None

    @abstractmethod
    def digests(self) -> dict[str, str]:
        """Hashes that must be the same in all processes of a run, such as of the model and of the data."""

    def watch(self) -> RunWatch | None:
        """Asks the servers before and after a run what they did in it; None if they cannot be asked."""
        return None

    def meters(self) -> Sequence[MeterPlan]:
        """What can be read of the servers again and again while a run goes."""
        return ()

    def concurrency(self, settings: TestSettings) -> int | None:
        """Most requests under way; None if only the scenario or the connections bound them."""
        asked = self.options.concurrency or settings.concurrency  # of several generators, each has its part
        return asked or (_IN_FLIGHT if settings.scenario in self.unbounded else None)

    def bound(self, settings: TestSettings) -> Bound:
        """What bounds the requests under way first."""
        most, batched = self.concurrency(settings), self.batch_size > 1
        carried = None if self.endpoints[0].is_grpc else self.connections(settings) * len(self.endpoints)
        if most is not None and (carried is None or most <= carried):
            return by_concurrency(most, batched=batched)
        return Bound("--connections", carried, batched)

    def connections(self, settings: TestSettings) -> int:
        """Connections to each server; by default each carries one request at a time."""
        return self.options.connections or math.ceil(self.at_a_time(settings) / len(self.endpoints))

    def at_a_time(self, settings: TestSettings) -> int:
        """Most requests under way, where each occupies something, such as a connection."""
        at_a_time = self.concurrency(settings) or _IN_FLIGHT
        if settings.scenario == Scenario.SingleStream and settings.in_turn:
            return 1
        if settings.scenario == Scenario.MultiStream:
            together = self.batch_size if self.alike else 1
            return min(at_a_time, math.ceil(settings.multi_stream_samples_per_query / together))
        return at_a_time

    def sizes(self, data: Inputs) -> tuple[int, int]:
        """How many samples there are, and how many of them a performance run keeps in memory."""
        total = min(self.amounts.count or data.total_count, data.total_count)
        return total, min(self.amounts.performance_sample_count or _PERFORMANCE_COUNT, total)

    def digest(self, data: Inputs) -> str:
        """A hash of the samples that a performance run keeps in memory."""
        total, performance = self.sizes(data)
        digest = hashlib.sha256(f"{data.name} {total} {performance}".encode())
        for index in range(performance):
            for tensor in data.sample(index):
                digest.update(f"{tensor.shape}".encode())
                digest.update(tensor.data)
        return digest.hexdigest()
