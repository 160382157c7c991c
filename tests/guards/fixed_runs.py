"""Fixed runs: whole tests of the load generator on a virtual clock, reduced to a hash of each thing that they leave.

    python -m tests.guards.fixed_runs                   # run all, print the hashes as JSON
    python -m tests.guards.fixed_runs --write           # ... and make them the ones that the guard expects
    python -m tests.guards.fixed_runs --keep FOLDER     # ... and keep what was hashed: compare two checkouts by diff -r

Real are the settings and their files, the draws, the traffic, ``Test``, the issue loops, ``Answers``, the table,
results, logs, summary, trace and run folder.  Replaced are:

* the clocks of ``time``, ``datetime.now`` and the event loop's waits (``virtual_time``).  Reading a clock costs no
  time, so a further read moves no hash; a loop that spins on the clock ends less than 100 ns late.
* ``Pacer.until``, which ends exactly at its deadline.  The rest of the pacer is the product's.
* real-time priority, which is forbidden.
* the system under test and the library, which are this file's.  Answers take seeded times.

Hashed are, of each run: every column (type, shape, bytes), the calls to the system and the library in order with
their times, how each phase ended, the evaluated ``Results``, and every file of the run folder, the columns' aside.
Left out, because it varies with the checkout or the machine:

* detail log: pid, tid, file and line of each entry; the values of ``loadgen_version``, ``loadgen_build_*``,
  ``loadgen_git_*`` and ``loadgen_file_sha1``.
* result.json: ``tool``, ``note``; of ``overhead`` the collections, switches, stolen time and the kind of timer, and
  digits after the ninth.
* trace: pid and tid.
* histograms: the compression of the .hlog (its content counts); and the .hgrm but in the runs with a ``table``, since
  the library takes a third of a second to print one.

Sentences of Drumfire's own (errors, warnings, reasons, names of figures) are hashed apart, as ``words``; elsewhere
a placeholder stands for each.  So a message can be reworded and only ``words`` moves.
"""

from __future__ import annotations

from tests.guards import virtual_time

virtual_time.start()  # before anything binds a clock

import argparse  # noqa: E402
import asyncio  # noqa: E402
import base64  # noqa: E402
import contextlib  # noqa: E402
import hashlib  # noqa: E402
import heapq  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import tempfile  # noqa: E402
import zlib  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from dataclasses import asdict, dataclass, field, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
from hdrh.histogram import HdrHistogram  # noqa: E402

from drumfire.loadgen import directory, logs, trace  # noqa: E402
from drumfire.loadgen.answers import Answers  # noqa: E402
from drumfire.loadgen.audit_config import audited  # noqa: E402
from drumfire.loadgen.compat.find_peak import find_peak  # noqa: E402
from drumfire.loadgen.confidence import CutShort, UntilConfident  # noqa: E402
from drumfire.loadgen.config import ConfigReader  # noqa: E402
from drumfire.loadgen.pacer import Pacer  # noqa: E402
from drumfire.loadgen.record import Record, load_columns  # noqa: E402
from drumfire.loadgen.results import Results  # noqa: E402
from drumfire.loadgen.run import Test  # noqa: E402
from drumfire.loadgen.settings import Mode, Scenario, TestSettings  # noqa: E402
from drumfire.loadgen.share import Share, Slice  # noqa: E402
from drumfire.loadgen.warm_up import WarmUp  # noqa: E402
from tests.guards.virtual_time import CLOCK, Loop, S  # noqa: E402

HASHES = Path(__file__).with_suffix(".json")
US, MS = 1_000, 1_000_000  # ns


async def _until(pacer: Pacer, deadline_ns: int, now: int | None = None) -> int:
    loop = pacer._loop
    if deadline_ns > CLOCK.now_ns:
        reached = loop.create_future()
        timer = loop.call_at(deadline_ns / S, lambda: reached.done() or reached.set_result(None))
        try:
            await reached
        finally:
            timer.cancel()
    pacer.served_ns = CLOCK.now_ns
    return CLOCK.now_ns


Pacer.until = _until  # type: ignore[method-assign]


class Library:
    name = "fixed samples"

    def __init__(self, total_count: int, performance_count: int, calls: list[Any]) -> None:
        self.total_count, self.performance_count, self._calls = total_count, performance_count, calls

    def load(self, indices: np.ndarray) -> None:
        self._calls.append(("load", indices.tolist()))

    def unload(self, indices: np.ndarray) -> None:
        self._calls.append(("unload", indices.tolist()))

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return indices


@dataclass(frozen=True)
class Service:
    """How the system under test serves."""

    fast_us: int = 200
    slow_us: int = 1500
    """Rows take a seeded time between these."""
    way: str = "each"
    """How rows are answered: ``each`` on its own, ``together`` as they were issued, in ``pieces`` out of order, ``at
    once`` in the call; or ``inline``, by the system's ``answer``."""
    returns: str = "responses"
    """``inline``: what ``answer`` returns: ``responses``, ``none``, or the ``moment`` of the answer."""
    workers: int = 0
    """Rows served at a time, first come first served; 0 is no limit."""
    stall_every: int = 0
    """Every n-th call keeps the event loop for ``stall_us``."""
    stall_us: int = 4000
    tokens: bool = False
    arrays: bool = False
    """Responses are an array, not a list of bytes."""
    failing: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()
    """Rows that are never answered."""
    twice: tuple[int, ...] = ()
    """Rows that are answered twice."""
    gone_at: int | None = None
    """At this row the system is gone."""


class System:
    name = "fixed system"

    def __init__(self, service: Service, calls: list[Any]) -> None:
        self.service, self._calls, self._issues = service, calls, 0
        self.columns = {"first_token": np.int64, "n_tokens": np.int32} if service.tokens else {}

    @property
    def answer(self) -> Any:
        return self._answer if self.service.way == "inline" else None

    async def open(self, answers: Answers) -> None:
        self._calls.append(("open",))
        self.answers, self._loop = answers, asyncio.get_running_loop()
        rows = len(answers.sample_index)
        # The stream of RandomState never changes with numpy's version.
        times_us = np.random.RandomState(7).randint(self.service.fast_us, self.service.slow_us, rows)
        self._times_ns = (times_us.astype(np.int64) * US + np.arange(rows) % 997).tolist()
        self._free_ns = [0] * self.service.workers

    async def close(self) -> None:
        self._calls.append(("close", self.answers.now()))

    def flush(self) -> None:
        self._calls.append(("flush", self.answers.now()))

    def issue(self, first: int, last: int) -> None:
        s = self.service
        self._calls.append(("issue", first, last, self.answers.now()))
        self._issues += 1
        if s.gone_at is not None and first <= s.gone_at < last:
            self.answers.abort("the connection was lost")
            return
        if s.stall_every and self._issues % s.stall_every == 0:
            CLOCK.advance(s.stall_us * US)
        if s.way == "at once":
            self._finish(np.arange(first, last))
        elif s.way == "each":
            for row in range(first, last):
                self._serve(np.array([row]))
        elif s.way == "together":
            self._serve(np.arange(first, last))
        else:
            rows = np.random.RandomState(first).permutation(np.arange(first, last))
            for piece in np.array_split(rows, max(1, rows.size // 3)):
                self._serve(piece)

    def _serve(self, rows: np.ndarray) -> None:
        needed_ns = max(self._times_ns[row] for row in rows)
        begin_ns = CLOCK.now_ns
        if self._free_ns:
            begin_ns = max(begin_ns, heapq.heappop(self._free_ns))
            heapq.heappush(self._free_ns, begin_ns + needed_ns)
        if self.service.tokens:
            self._loop.call_at_ns(begin_ns + needed_ns // 4, self._begin, rows)
        self._loop.call_at_ns(begin_ns + needed_ns, self._finish, rows)

    def _begin(self, rows: np.ndarray) -> None:
        self.answers.first_token(rows, [data[:2] for data in self._responses(rows)])

    def _finish(self, rows: np.ndarray) -> None:
        s, answers = self.service, self.answers
        if s.tokens:
            answers.columns["n_tokens"][rows] = 2 + answers.sample_index[rows] % 7
        failing, silent = np.isin(rows, s.failing), np.isin(rows, s.silent)
        if failing.any():
            answers.fail_rows(rows[failing], "out of memory")
        good = rows[~failing & ~silent]
        if good.size == 0:
            return
        responses = self._responses(good) if answers.keeping else None
        if good.size == good[-1] - good[0] + 1 and (np.diff(good) == 1).all():
            answers.complete(int(good[0]), int(good[-1]) + 1, responses)
        elif good[0] % 2 or s.arrays:
            answers.complete_rows(good, responses)
        else:
            answers.complete_each(good.tolist(), responses)
        for row in good[np.isin(good, s.twice)]:
            answers.complete(int(row), int(row) + 1)

    def _answer(self, first: int, last: int) -> Any:
        self._calls.append(("answer", first, last, self.answers.now()))
        CLOCK.advance(max(self._times_ns[first:last]))
        done_ns = CLOCK.now_ns
        if first in self.service.failing:
            raise RuntimeError("out of memory")
        if self.service.returns == "moment":
            CLOCK.advance(3 * US)
            return done_ns
        return self._responses(np.arange(first, last)) if self.service.returns == "responses" else None

    def _responses(self, rows: np.ndarray) -> Any:
        values = self.answers.sample_index[rows].astype("<u4") * 3 + 1
        return values[:, None] if self.service.arrays else [value.tobytes() for value in values]


@dataclass(frozen=True)
class Run:
    """One fixed run.  ``settings`` are laid over those of ``BASE``."""

    scenario: Scenario
    mode: Mode = Mode.PerformanceOnly
    settings: dict[str, Any] = field(default_factory=dict)
    service: Service = Service()
    total: int = 64
    performance: int = 64
    user_conf: str | None = None
    model: str = "resnet50"
    mlperf_round: str = "v6.1"
    audit: str | None = None
    part: tuple[int, int] | None = None
    """Part k of n generators."""
    interrupt_ms: int | None = None
    until_confident_ms: int | None = None
    cut_short: int | None = None
    """Give up once more queries than this are over the latency bound."""
    patience_s: float = 2.0
    table: bool = False
    """Whether the histograms are printed as tables as well."""


BASE = {
    "min_duration_ms": 250, "min_query_count": 120, "server_target_qps": 2000.0, "server_target_latency_ns": 2 * MS,
    "offline_expected_qps": 1500.0, "single_stream_expected_latency_ns": 1e6, "multi_stream_expected_latency_ns": 2e6,
    "multi_stream_samples_per_query": 4, "qsl_rng_seed": 11, "sample_index_rng_seed": 22, "schedule_rng_seed": 33,
    "accuracy_log_rng_seed": 44,
}  # fmt: skip

SINGLE, MULTI, SERVER, OFFLINE = Scenario.SingleStream, Scenario.MultiStream, Scenario.Server, Scenario.Offline
ACCURACY, SUBMISSION, PEAK = Mode.AccuracyOnly, Mode.SubmissionRun, Mode.FindPeakPerformance
TOKENS = {"use_token_latencies": True, "ttft_latency": 1 * MS, "tpot_latency": 1 * MS}
TEST01 = "*.*.mode = 2\n*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = 64\n"
TEST04 = "*.*.mode = 2\n*.*.performance_issue_same = 1\n*.*.performance_issue_same_index = 3\n"
SEEDS = {"qsl_rng_seed": 2**40 + 5, "sample_index_rng_seed": 2**63 + 9, "schedule_rng_seed": 2**32 - 1}

RUNS = {
    # Each scenario in each mode, over a library that is loaded in several sets.
    **{
        f"{scenario.name} {mode.name}": Run(
            scenario, mode, service=Service(workers=1 if scenario == OFFLINE else 0), total=50, performance=20,
            table=mode == Mode.PerformanceOnly and scenario in (SERVER, MULTI),
        )
        for scenario in Scenario
        for mode in (Mode.PerformanceOnly, ACCURACY, SUBMISSION)
    },
    # Search for the peak.
    "peak of Server": Run(
        SERVER, PEAK,
        {"min_duration_ms": 60, "server_target_qps": 1000.0, "server_find_peak_qps_decimals_of_precision": -2},
        Service(300, 700, workers=2),
    ),
    "peak whose start fails": Run(
        SERVER, PEAK, {"server_target_qps": 9000.0, "min_duration_ms": 60}, Service(300, 700, workers=2)
    ),
    "peak of Offline": Run(OFFLINE, PEAK),
    # Single- and MultiStream.
    "SingleStream inline": Run(SINGLE, service=Service(way="inline", returns="none")),
    "SingleStream inline accuracy": Run(SINGLE, ACCURACY, service=Service(way="inline", failing=(7,))),
    "MultiStream inline moments": Run(MULTI, service=Service(20, 90, way="inline", returns="moment")),
    "SingleStream other seeds, p99": Run(SINGLE, settings={**SEEDS, "single_stream_target_latency_percentile": 0.99}),
    "SingleStream ran out": Run(SINGLE, settings={"single_stream_expected_latency_ns": 1e8, "min_query_count": 5}),
    "SingleStream max queries": Run(SINGLE, settings={"max_query_count": 40}),
    "SingleStream equal issue": Run(SINGLE, settings={"sample_concatenate_permutation": True}, total=30, performance=8),
    "MultiStream pieces, max duration": Run(MULTI, settings={"max_duration_ms": 200}, service=Service(way="pieces")),
    "MultiStream 7 samples a query, p90": Run(
        MULTI, settings={"multi_stream_samples_per_query": 7, "multi_stream_target_latency_percentile": 0.9},
        service=Service(way="together"), performance=10,
    ),
    # Server.
    "Server queueing, INVALID": Run(SERVER, service=Service(900, 1800, workers=2)),
    "Server bursts": Run(
        SERVER, settings={"server_target_qps": 6000.0}, service=Service(way="together", stall_every=9)
    ),
    "Server close together": Run(
        SERVER, settings={"server_target_qps": 40_000.0, "min_duration_ms": 20, "server_coalesce_queries": True},
        service=Service(way="at once"),
    ),
    "Server p90, other seeds": Run(SERVER, settings={**SEEDS, "server_target_latency_percentile": 0.9}),
    "Server max async": Run(SERVER, settings={"server_max_async_queries": 20}, service=Service(workers=1)),
    "Server max queries": Run(SERVER, settings={"max_query_count": 300}),
    "Server max duration": Run(SERVER, settings={"max_duration_ms": 120}),
    "Server equal issue, unlike counts": Run(
        SERVER, settings={"sample_concatenate_permutation": True, "performance_sample_count_override": 24}, total=40,
        performance=30,
    ),
    "Server unique, timestamps": Run(
        SERVER, settings={"performance_issue_unique": True, "print_timestamps": True}, performance=200, total=200
    ),
    "Server until confident": Run(
        SERVER, settings={"server_target_latency_percentile": 0.9}, service=Service(100, 1900), until_confident_ms=2000
    ),
    "Server cut short": Run(SERVER, service=Service(900, 1800, workers=2), cut_short=30),
    # Offline.
    "Offline pieces, large": Run(
        OFFLINE, settings={"offline_expected_qps": 9000.0}, service=Service(way="pieces", workers=8, arrays=True)
    ),
    "Offline equal issue": Run(
        OFFLINE, settings={"sample_concatenate_permutation": True}, service=Service(workers=4), performance=50
    ),
    "Offline small, INVALID": Run(
        OFFLINE, settings={"min_query_count": 1, "offline_expected_qps": 9.0}, service=Service(way="together")
    ),
    "Offline sampled log": Run(
        OFFLINE, settings={"accuracy_log_probability": 0.1}, service=Service(arrays=True, workers=4)
    ),
    # Tokens.
    **{
        f"{scenario.name} tokens": Run(scenario, SUBMISSION, TOKENS, Service(tokens=True), total=30, performance=30)
        for scenario in Scenario
    },
    "Server tokens too slow": Run(SERVER, settings=TOKENS, service=Service(2000, 9000, tokens=True, workers=6)),
    # Files.
    "Server user.conf of a named model": Run(
        SERVER, user_conf="resnet50.Server.target_qps = 1800.5\n*.*.min_duration = 300\n"
        "resnet50.*.max_query_count = 0\n*.Server.target_latency_percentile = 97\n"
        "*.*.performance_sample_count_override = 30\n",
    ),
    "MultiStream user.conf, round v2.1": Run(
        MULTI, user_conf="*.MultiStream.min_duration = 200\n*.*.min_query_count = 60\n", mlperf_round="v2.1",
        model="retinanet",
    ),
    "Offline user.conf that is refused": Run(
        OFFLINE, settings={"min_query_count": 90}, user_conf="*.*.min_duration = 5 ms\n", model="3d-unet",
    ),
    "Server TEST01": Run(SERVER, SUBMISSION, audit=TEST01),
    "Offline TEST01": Run(OFFLINE, ACCURACY, audit=TEST01, service=Service(way="pieces")),
    "SingleStream TEST04": Run(SINGLE, audit=TEST04),
    "Offline TEST04": Run(OFFLINE, audit=TEST04, service=Service(way="together")),
    "Server TEST05": Run(
        SERVER, settings={"test05": True, "min_duration_ms": 250}, user_conf="*.*.min_duration = 250\n"
        "*.Server.target_qps = 2100\n*.Server.target_latency = 3\n", model="bert",
    ),
    # Parts of a test that several generators do.
    "Server part 0 of 2": Run(SERVER, part=(0, 2)),
    "Server part 1 of 3, limited": Run(SERVER, SUBMISSION, {"max_query_count": 250}, part=(1, 3)),
    "MultiStream part 2 of 3": Run(MULTI, part=(2, 3)),
    "Offline part 1 of 2": Run(OFFLINE, SUBMISSION, part=(1, 2), service=Service(way="together"), performance=20),
    # What goes wrong.
    "Server failing": Run(SERVER, service=Service(failing=(3, 4, 200), way="together")),
    "MultiStream failing": Run(MULTI, service=Service(failing=(9, 30, 31), way="together")),
    "Server answers missing and doubled": Run(SERVER, service=Service(silent=(5, 77), twice=(8, 9)), patience_s=0.5),
    "SingleStream stops answering": Run(SINGLE, service=Service(silent=(60,)), patience_s=0.5),
    "Offline failing, tokens": Run(OFFLINE, settings=TOKENS, service=Service(failing=(2,), tokens=True)),
    "Server interrupted": Run(SERVER, service=Service(900, 1800, workers=2), interrupt_ms=90),
    "SingleStream interrupted": Run(SINGLE, SUBMISSION, interrupt_ms=150),
    "Server system gone": Run(SERVER, service=Service(gone_at=100)),
}  # fmt: skip


def settings_of(run: Run) -> tuple[TestSettings, dict[str, tuple[str, ...]]]:
    """The settings after the run's files, which are written to the current folder; and what these add to the log."""
    settings = TestSettings(scenario=run.scenario, mode=run.mode, **{**BASE, **run.settings})
    errors: list[str] = []
    if run.user_conf is not None:
        Path("user.conf").write_text(run.user_conf, encoding="utf-8")
        reader = ConfigReader(run.mlperf_round)
        reader.from_config(settings, "user.conf", run.model, run.scenario.name)
        errors += reader.errors
        for name, value in run.settings.items():
            setattr(settings, name, value)
    if run.audit is not None:
        Path("audit.config").write_text(run.audit, encoding="utf-8")
    settings, warnings, audit_errors = audited(settings, "audit.config")
    return settings, {"config_warnings": warnings, "config_errors": tuple(errors), "audit_errors": audit_errors}


WARM = [
    "SingleStream inline", "SingleStream equal issue", "MultiStream pieces, max duration", "MultiStream inline moments",
    "Server queueing, INVALID", "Server close together", "Server failing", "Server tokens too slow", "Server TEST01",
    "Server part 1 of 3, limited", "Offline pieces, large", "Offline part 1 of 2", "MultiStream part 2 of 3",
]  # fmt: skip
"""Runs that are also done with a warm-up, which must leave the same columns and results; none has a system that counts
its calls.
"""


def performed(run: Run, folder: Path, warm_up: WarmUp | None = None) -> dict[str, bytes]:
    """Do a run, save it to ``folder``, and return all that it left, by name, without what varies."""
    CLOCK.reset()
    calls: list[Any] = []
    stamps = io.StringIO()
    system, library = System(run.service, calls), Library(run.total, run.performance, calls)
    settings, head = settings_of(run)
    common: dict[str, Any] = {**head, "patience_s": run.patience_s, "timestamps": stamps}
    loop = Loop()
    try:
        if run.mode == Mode.FindPeakPerformance:
            test = loop.run_until_complete(find_peak(system, library, settings, **common))
        else:
            if run.part is not None:
                common["share"] = share_of(run, Test(system, library, replace(settings)), warm_up)
            common["warm_up"] = warm_up
            if run.until_confident_ms is not None:
                common["rule"] = UntilConfident(Test(system, library, settings).effective, run.until_confident_ms)
            if run.cut_short is not None:
                common["rule"] = CutShort(settings.server_target_latency_ns, 600, run.cut_short)
            test = Test(system, library, settings, **common)
            if run.interrupt_ms is not None:
                loop.call_later(run.interrupt_ms / 1000, test.interrupt, "stopped by hand")
            loop.run_until_complete(test.run())
    finally:
        loop.close()
    foreseen = test.foreseen() if test.phases[-1].rows else []
    document = directory.document(test, {"environment": {"machine": "any"}}, foreseen)
    with contextlib.nullcontext() if run.table else without_tables():
        directory.save(test, document, folder)
    trace.write(test, folder / trace.TRACE)
    results = test.results()
    return contents(folder, results) | {
        "calls": lines(calls),
        "phases": lines(
            (r.phase.accuracy, r.end.name, r.issued_rows, r.lasted_ns, r.pacing.longest_stall_ns, r.start_late_ns)
            for r in test.reports
        ),
        "timestamps": stamps.getvalue().encode(),
    }


@contextlib.contextmanager
def without_tables() -> Iterator[None]:
    printed = HdrHistogram.output_percentile_distribution
    HdrHistogram.output_percentile_distribution = lambda *_: None
    try:
        yield
    finally:
        HdrHistogram.output_percentile_distribution = printed


def share_of(run: Run, whole: Test, warm_up: WarmUp | None) -> Share:
    assert run.part is not None
    part = Slice(*run.part, whole.effective.samples_per_query if run.scenario == MULTI else 1)

    async def start(number: int) -> int:
        return CLOCK.now_ns + 30 * MS + number

    spare = 0 if warm_up is None else warm_up.rows(part.width)
    record = Record(part.count(whole.record.rows), whole.system.columns, spare)
    phases = [phase.entered(record) for phase in part.of(whole.phases, whole.effective.max_query_count)]
    return Share(part, phases, record, start)


def lines(values: Any) -> bytes:
    return "".join(json.dumps(value, sort_keys=True) + "\n" for value in values).encode()


# What varies, and what is words.


def contents(folder: Path, results: Results | None) -> dict[str, bytes]:
    """The folder's files by name, ``results`` and ``words``."""
    found: dict[str, bytes] = {}
    texts = {"results": lines([None if results is None else figures_of(results)]).decode()}
    words: list[str] = [] if results is None else list(results.spoiled)
    advice: list[str] = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.suffix == ".npy":
            continue
        text = path.read_text(encoding="utf-8")
        if name == logs.DETAIL:
            text = detail(text, words)
        elif name == directory.RESULT:
            text = result(text, words, advice)
        elif name == trace.TRACE:
            text = re.sub(r'"(pid|tid)": ?\d+', r'"\1":0', text)
        elif path.suffix == ".hlog":
            text = histogram(text)
        texts[name] = text
    # Numbered as they come, which does not follow their wording; the longest first, as they may hold each other.
    numbers = {sentence: f"<{number}>" for number, sentence in enumerate(dict.fromkeys(words))}
    for sentence in sorted(numbers, key=lambda text: (-len(text), text)):
        for name in texts:
            for form in (sentence, json.dumps(sentence)[1:-1]):
                texts[name] = texts[name].replace(form, numbers[sentence])
    for name, column in load_columns(folder / "columns").items():
        head = f"{column.dtype.str} {column.shape}\n".encode()
        found[f"column {name}"] = head + np.ascontiguousarray(column).tobytes()
    found["words"] = lines(words + advice)
    return found | {name: text.encode() for name, text in texts.items()}


VARYING = re.compile(r'("key": "loadgen_(?:version|build_\w+|git_\w+|file_sha1)", "value": ).*(, "time_ms")')
WRITER = re.compile(r', "file": "[^"]*", "line_no": \d+, "pid": \d+, "tid": \d+\}')


def detail(text: str, words: list[str]) -> str:
    """The detail log without where and by whom an entry was written; all else stays as it is written."""
    for line in text.splitlines():
        entry = json.loads(line.removeprefix(":::MLLOG "))
        if entry["metadata"]["is_error"] or entry["metadata"]["is_warning"]:
            words.append(entry["value"])
    return VARYING.sub(r"\1...\2", WRITER.sub("}", text))


def figures_of(results: Results) -> dict[str, Any]:
    """The results without what is only said of them."""
    found = asdict(results)
    del found["advice"]
    for stopping in (found["stopping"], *(found["token_stopping"] or ())):
        del stopping["over"]
    return found


def result(text: str, words: list[str], advice: list[str]) -> str:
    """``advice``: reasons that are in no other file."""
    found = json.loads(text)
    advice += [reason for reason in found.pop("reasons") if reason not in words]
    for name in ("tool", "note"):
        del found[name]
    overhead = found["overhead"] or {}
    for name in ("gc_collections", "involuntary_switches", "steal_s", "throttled_s", "exact_timer", "pacer_window_us"):
        overhead.pop(name, None)
    for name, value in overhead.items():
        if isinstance(value, int | float):
            overhead[name] = float(f"{value:.9g}")  # Python 3.12 and newer add floats more exactly
    words += found["warnings"] + list(found["errors"]["messages"])
    if found["metric"] is not None:
        words.append(found["metric"]["name"])
    if found["lateness_ns"] is not None:
        words.append(found["lateness_ns"]["meaning"])
    return json.dumps(found, indent=1)


def histogram(text: str) -> str:
    """A .hlog whose histogram is not compressed, since zlib's versions compress in different ways."""

    def unpacked(match: re.Match[str]) -> str:
        return zlib.decompress(base64.b64decode(match[0])[8:]).hex()

    return re.sub(r"HIST[A-Za-z0-9+/=]+", unpacked, text)


def all_runs(keep: Path | None, warm_up: WarmUp | None) -> Iterator[tuple[str, dict[str, str]]]:
    """Each run's name and the hash of each thing that it left."""
    for name in RUNS if warm_up is None else WARM:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            left = performed(RUNS[name], Path("run"), warm_up)
        if keep is not None:
            for part, content in left.items():
                path = keep / name / part
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        yield name, {part: hashlib.sha256(content).hexdigest()[:16] for part, content in sorted(left.items())}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.guards.fixed_runs")
    parser.add_argument("--write", action="store_true", help=f"write the hashes to {HASHES.name}")
    parser.add_argument("--keep", type=Path, help="write what was hashed into this folder")
    parser.add_argument("--warm-up", type=WarmUp.of, help="do some of the runs, each after a warm-up: 40, or 0.1s")
    options = parser.parse_args()
    keep = None if options.keep is None else options.keep.absolute()
    text = json.dumps(dict(sorted(all_runs(keep, options.warm_up))), indent=1) + "\n"
    if options.write:
        HASHES.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
