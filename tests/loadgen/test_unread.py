"""Lines of a configuration file that set nothing are named, and those that set something are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from drumfire.loadgen.config import ConfigError, ConfigReader
from drumfire.loadgen.mlperf_conf import built_in_values
from drumfire.loadgen.settings import TestSettings
from drumfire.loadgen.unread import unread


def notes(tmp_path: Path, text: str, model: str = "digits", **how: bool) -> list[str]:
    path = tmp_path / "user.conf"
    path.write_text(text)
    return [note.removeprefix(f"--user-conf {path} ") for note in unread(path, model, "--user-conf", **how)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("*.Server.min_durationn = 1000", "there is no setting 'min_durationn' (did you mean min_duration?)"),
        ("*.server.min_duration = 1200", "there is no scenario 'server' (did you mean Server?)"),
        ("*.Server.target_qps=400", "'*.Server.target_qps=400' sets nothing: write 'key = value' with spaces"),
        ("*.Server.target_qps", "'*.Server.target_qps' sets nothing"),
        ("*.Server.target_qps =", "*.Server.target_qps has no value"),
        ("*.SingleStream.target_qps = 5", "target_qps has no effect in SingleStream, only in Server and Offline"),
        ("digts.Server.target_qps = 3", "'digts' is not the model of this run (did you mean digits?)"),
        ("min_duration = 3", "min_duration is not MODEL.SCENARIO.SETTING (did you mean *.*.min_duration?)"),
        ("mod = 3", "mod is not MODEL.SCENARIO.SETTING (did you mean *.*.mode?)"),
        ("*.*.qsl_rng_seed = 3", "qsl_rng_seed has no effect in such a file"),
        ("*.*.mode = 2", "*.*.mode has no effect: the mode is chosen with --accuracy or --submission"),
        ("*.*.min_query_count = 1e3", "1e3 is read as 1, as in the reference"),
        ("*.*.min_query_count = -5", "-5 is read as 18446744073709551611"),
        ("*.Server.target_latency = 10.5", "10.5 is read as 10"),
        ("*.Server.target_latency_percentile = 0.99", "target_latency_percentile is in percent: write 99 for 0.99 of"),
        ("*.MultiStream.target_latency_percentile = 0.999", "target_latency_percentile is in percent: write 99.9 for"),
        ("digits.Server.min_duration = 2", "min_duration is in milliseconds: write 2000 for 2 s"),
        ("*.Server.min_duration = 0.5", "min_duration is in milliseconds: write 500 for 0.5 s"),
        ("*.Server.target_latency = 0.05", "target_latency is in milliseconds: write 50 for 0.05 s"),
        ("*.Server.ttft_latency = 0.2", "ttft_latency is in milliseconds: write 200 for 0.2 s"),
        ("*.*.max_duration = 600", "max_duration is in milliseconds: write 600000 for 600 s"),
    ],
)
def test_a_line_that_sets_nothing_is_named(tmp_path: Path, line: str, says: str) -> None:
    (note,) = notes(tmp_path, f"# what follows is wrong\n\n{line}\n*.*.min_duration = 5000\n")
    assert note.startswith(f"line 3: {says}")
    assert "\n" not in note


def test_what_is_read_for_any_run_is_not_named(tmp_path: Path) -> None:
    """Every key of the built-in configuration, but for those that only the round sets."""
    fields = {key.rpartition(".")[2] for key in built_in_values() if "seed" in key}
    lines = [f"{key} = 1000" for key in built_in_values() if key.rpartition(".")[2] not in fields]
    assert len(lines) > 100
    assert notes(tmp_path, "\n".join(lines)) == []
    others = ["*.Server.target_qps = 0.5", "*.*.accuracy_log_rng_seed = 0x10", "mine.Server.target_qps = 7", "#k = 1"]
    assert notes(tmp_path, "\n".join(others)) == []


def test_a_line_that_a_later_one_replaces_is_named(tmp_path: Path) -> None:
    text = "*.*.min_duration = 5000\n*.Server.min_duration = 6000\n*.*.min_duration = 7000\n"
    assert notes(tmp_path, text) == ["line 1: *.*.min_duration has no effect, as line 3 sets it again"]


def test_an_audit_file_has_no_lines_of_a_model_and_sets_the_mode(tmp_path: Path) -> None:
    (note,) = notes(tmp_path, "*.*.mode = 2\ndigits.Server.target_qps = 5\n", "*", mode=True)
    assert note == "line 2: lines of a single model have no effect here: write *.Server.target_qps"


def test_a_file_that_the_grammar_refuses_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "user.conf"
    for further, told in ((1, "; line 3 is refused too"), (2, "; lines 3 and 4 are refused too")):
        with pytest.raises(ConfigError) as refused:
            notes(tmp_path, "*.*.min_duration = 5000\n*.*.min_duration = x\n" + "a b\n" * further)
        assert str(refused.value).startswith(f"--user-conf {path}: line 2: 'x' is not a number")
        assert str(refused.value).endswith(told)
    with pytest.raises(ConfigError, match=r"lines 2, 3, 4, 5, 6, 7, 8 and more are refused too$"):
        notes(tmp_path, "a b\n" * 1000)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path, settings = tmp_path / "user.conf", TestSettings()
    path.write_bytes(b"\xef\xbb\xbf*.Server.target_qps = 400\n")
    assert ConfigReader().from_config(settings, path, "digits", "Server") == 0
    assert settings.server_target_qps == 400
    assert unread(path, "digits", "--user-conf") == []


def test_of_a_file_of_another_kind_all_lines_are_named_but_few_nearest_keys_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[str] = []
    monkeypatch.setattr("drumfire.loadgen.unread.nearest", lambda word, words: searched.append(word) or " (near)")
    lines = [f"target_{number}_latency = 1\n*.*.a{number} = 1\n*.A{number}.b = 1\n" for number in range(1000)]
    found = notes(tmp_path, "".join(lines))
    assert len(found) == 3000
    assert len(searched) == 20
    assert [" (near)" in note for note in found] == [True] * 20 + [False] * 2980
