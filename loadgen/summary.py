"""The summary file: a run's verdict and figures as text, line for line as in the reference.

Other tools parse these lines, odd blanks included.  The figures come from ``results``; nothing is computed here.
"""

from __future__ import annotations

from drumfire.loadgen.results import LOGGED_PERCENTILES, Distribution, EarlyStopping, Results
from drumfire.loadgen.settings import LOGGED_IN_THIS_ORDER, EffectiveSettings, Scenario

SUMMARY = "mlperf_log_summary.txt"


def summary(system: str, settings: EffectiveSettings, results: Results | None, *, warnings: int, errors: int) -> str:
    """The summary file's text.  Accuracy runs have no results, and show only the numbers of warnings and errors."""
    lines = [] if results is None else _result_lines(system, settings, results)
    lines += ["", _encountered(warnings, "warning", "warnings"), "", _encountered(errors, "ERROR", "ERRORS")]
    return "\n".join(lines) + "\n"


def _encountered(count: int, singular: str, plural: str) -> str:
    if count == 0:
        return f"No {plural.lower()} encountered during test."
    return f"{count} {singular if count == 1 else plural} encountered. See detailed log."


_RULE = "================================================"


def _result_lines(system: str, settings: EffectiveSettings, r: Results) -> list[str]:
    s = settings
    lines = [_RULE, "MLPerf Results Summary", _RULE]
    lines += [f"SUT name : {system}", f"Scenario : {s.kind}", f"Mode     : {s.mode.name}"]
    if "completed_samples_per_sec" in r.rates:
        lines.append(f"Completed samples per second    : {r.rates['completed_samples_per_sec']:.2f}")
        if "completed_tokens_per_second" in r.rates:
            lines.append(f"Completed tokens per second: {r.rates['completed_tokens_per_second']:.2f}")
        if s.infer_token_latencies:
            rate = r.rates["inferred_completed_tokens_per_second"]
            lines.append(f"Completed tokens per second (inferred): {rate:.2f}")
    elif s.scenario == Scenario.Offline:
        lines.append(f"Samples per second: {r.rates['samples_per_second']:g}")
        if "tokens_per_second" in r.rates:
            lines.append(f"Tokens per second: {r.rates['tokens_per_second']:g}")
        if s.infer_token_latencies:
            lines.append(f"Tokens per second (inferred): {r.rates['inferred_tokens_per_second']:g}")
    else:
        percentile = f"{s.target_latency_percentile * 100:.1f}th"
        lines.append(f"{percentile} percentile latency (ns) : {r.target_percentile_ns}")
        if r.first_token is not None:
            first_token_ns = r.first_token.percentiles[s.target_latency_percentile]
            lines.append(f"{percentile} first token percentile latency (ns) : {first_token_ns}")
    lines.append(f"Result is : {'VALID' if r.valid else 'INVALID'}")
    if s.scenario == Scenario.Server:
        lines.append(f"  Performance constraints satisfied : {_yes(r.performance_met)}")
    lines.append(f"  Min duration satisfied : {_yes(r.duration_met)}")
    lines.append(f"  Min queries satisfied : {_yes(r.queries_met)}")
    lines.append(f"  Early stopping satisfied: {_yes(r.stopping.met)}")
    if not r.valid:
        lines.append("Recommendations:")
        lines += [f" * {text}" for text in (*r.recommendations, *r.spoiled)]
    lines += _stopping_lines(s, r)
    lines += ["", _RULE, "Additional Stats", _RULE]
    lines += _stat_lines(s, r)
    lines += ["", _RULE, "Test Parameters Used", _RULE, *_parameter_lines(s)]
    return lines


def _yes(met: bool) -> str:
    return "Yes" if met else "NO"


def _stopping_lines(s: EffectiveSettings, r: Results) -> list[str]:
    def block(title: str, stopping: EarlyStopping) -> list[str]:
        return [title, *stopping.text.split("\n")]

    if not s.stops_early:
        return []
    if r.token_stopping is None:
        return block("Early Stopping Result:", r.stopping)
    first, per_token = r.token_stopping
    return block("TTFT Early Stopping Result:", first) + block("TPOT Early Stopping Result:", per_token)


def _stat_lines(s: EffectiveSettings, r: Results) -> list[str]:
    lines: list[str] = []
    if "qps_with_loadgen_overhead" in r.rates:
        lines.append(f"QPS w/ loadgen overhead         : {r.rates['qps_with_loadgen_overhead']:.2f}")
        lines.append(f"QPS w/o loadgen overhead        : {r.rates['qps_without_loadgen_overhead']:.2f}")
        lines.append("")
    elif s.scenario == Scenario.Server:
        lines.append(f"Scheduled samples per second : {r.rates['scheduled_samples_per_sec']:.2f}")
    if r.query_latency is not None:
        lines.append("Per-query latency:  ")
        lines += _distribution_lines(r.query_latency, "latency", "latency (ns)   ")
    else:
        lines += _distribution_lines(r.latency, "latency", "latency (ns)   ")
    if s.use_token_latencies and s.scenario == Scenario.Offline:
        lines.append("")
    if r.first_token is not None and r.time_per_output_token is not None:
        lines.append("")
        if "completed_samples_per_sec" in r.rates:
            completed = r.rates["completed_tokens_per_second"]
            lines.append(f"Completed tokens per second                 : {completed:.2f}")
        elif s.scenario == Scenario.SingleStream:
            with_overhead, without = r.rates["token_throughput_with_loadgen_overhead"], r.rates["token_throughput"]
            lines.append(f"TPS w/ loadgen overhead         : {with_overhead:.2f}")
            lines.append(f"TPS w/o loadgen overhead        : {without * 1e9:.2f}")
        lines += _distribution_lines(r.first_token, "First Token latency", "first token latency (ns)   ")
        lines.append("")
        lines += _distribution_lines(r.time_per_output_token, "Time per Output Token", "time to output token (ns)   ")
    return lines


def _distribution_lines(latency: Distribution, extreme: str, percentile: str) -> list[str]:
    lines = [
        f"{word} {extreme} (ns)                : {ns}"
        for word, ns in (("Min", latency.minimum), ("Max", latency.maximum), ("Mean", latency.mean))
    ]
    # The reference pads "Mean" with one blank less.
    lines[2] = lines[2].replace("(ns)                :", "(ns)               :")
    return lines + [f"{p * 100:.2f} percentile {percentile}: {latency.percentiles[p]}" for p in LOGGED_PERCENTILES]


def _parameter_lines(s: EffectiveSettings) -> list[str]:
    values: dict[str, float | int] = {"samples_per_query ": s.samples_per_query, "target_qps ": s.target_qps}
    if s.use_token_latencies:
        values["ttft_latency (ns)"] = s.ttft_latency
        values["tpot_latency (ns)"] = s.tpot_latency
    else:
        values["target_latency (ns)"] = s.target_latency_ns
    values |= {
        "max_async_queries ": s.max_async_queries,
        "min_duration (ms)": s.min_duration_ms,
        "max_duration (ms)": s.max_duration_ms,
        "min_query_count ": s.min_query_count,
        "max_query_count ": s.max_query_count,
    }
    values |= {
        f"{name} ": getattr(s, name)
        for name in (*LOGGED_IN_THIS_ORDER, "performance_sample_count", "accuracy_sample_count")
    }
    lines = [
        f"{name}: {value:g}" if isinstance(value, float) else f"{name}: {int(value)}" for name, value in values.items()
    ]
    if s.sample_concatenate_permutation:
        lines += [
            "WARNING: sample_concatenate_permutation was set to true. ",
            "Generated samples per query might be different as the one in the setting.",
            "Check the generated_samples_per_query line in the detailed log for the real",
            "samples_per_query value",
        ]
    return lines
