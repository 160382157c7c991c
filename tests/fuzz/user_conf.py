"""user.conf and audit.config: read, applied, and each line that sets nothing named."""

from __future__ import annotations

import zlib

from drumfire.loadgen.audit_config import audited
from drumfire.loadgen.config import ConfigError, ConfigReader
from drumfire.loadgen.settings import Scenario, SettingsError, TestSettings, effective
from drumfire.loadgen.unread import unread
from tests.fuzz.harness import check_line, file

SEEDS = [
    b"# a comment\n*.Server.target_qps = 400.5\n*.*.min_duration = 1000\ndigits.Offline.target_qps = 0x10\n",
    b"\xef\xbb\xbf*.Server.target_latency = 15\r\n*.SingleStream.target_latency_percentile = 90\r\n",
    b"*.*.mode = 2\n*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = 8\n",
    b"*.*.use_token_latencies = 1\n*.Server.ttft_latency = 2000\n*.Server.tpot_latency = 200\nk=v\n*.*.x =\n",
    b"*.*.sample_concatenate_permutation = 1\n*.MultiStream.samples_per_query = 8\n*.Server.max_async_queries = -1\n",
]

_FILE = file("user.conf")


def read(data: bytes) -> None:
    _FILE.write_bytes(data)
    scenario = Scenario(len(data) % len(Scenario))
    settings, reader = TestSettings(), ConfigReader()
    code = reader.from_config(settings, _FILE, "digits", scenario.name)
    assert code == 0 or reader.errors
    settings, _, _ = audited(settings, _FILE)
    settings.scenario = scenario
    try:
        effective(settings, 10, 10)
    except SettingsError as error:
        check_line(error)
    if zlib.crc32(data) % 4:
        return  # the search for the nearest key takes longer than all else
    try:
        as_audit = len(data) % 2
        notes = unread(_FILE, "*", "--audit-conf", mode=True) if as_audit else unread(_FILE, "digits", "--user-conf")
    except ConfigError as error:
        check_line(error)
        return
    assert all(note.isprintable() for note in notes)
