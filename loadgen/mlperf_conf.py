"""The reference's built-in configuration: what its mlperf.conf sets for every model and for single ones.

Facts only, from the published mlperf.conf of 6.0.17, and from earlier rounds for the models that later ones dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

from drumfire.loadgen.rounds import DEFAULT_ROUND, ROUNDS

_GENERAL: dict[str, float] = {
    "*.SingleStream.target_latency_percentile": 90,
    "*.SingleStream.min_duration": 600_000,
    "*.SingleStream.target_latency": 10,
    "*.MultiStream.target_latency_percentile": 99,
    "*.MultiStream.samples_per_query": 8,
    "*.MultiStream.min_duration": 600_000,
    "*.MultiStream.min_query_count": 662,
    "*.MultiStream.target_latency": 80,
    "*.Server.target_latency_percentile": 99,
    "*.Server.min_duration": 600_000,
    "*.Server.target_latency": 10,
    "*.Server.target_qps": 1,
    "*.Offline.min_duration": 600_000,
    "*.Offline.target_qps": 1,
    "pointpainting.SingleStream.target_latency_percentile": 99.9,
    "retinanet.MultiStream.target_latency": 528,
    "gpt-oss-120b.*.accuracy_sample_count_override": 4395,
    "gpt-oss-120b-interactive.*.accuracy_sample_count_override": 4395,
    "gptj.*.infer_token_latencies": 1,
    "gptj.*.token_latency_scaling_factor": 69,
}


def _twins(*names: str) -> list[str]:
    """Each model and its interactive variant, which differs only in its token latencies."""
    return [twin for name in names for twin in (name, f"{name}-interactive")]


_PERFORMANCE_SAMPLES = {
    "resnet50": 1024, "ssd-mobilenet": 256, "retinanet": 64, "bert": 10833, "dlrm": 204800, "dlrm-v2": 204800,
    "rnnt": 2513, "gptj": 13368, "mixtral-8x7b": 15000, "llama3_1-8b-edge": 5000, "stable-diffusion-xl": 5000,
    "wan-2.2-t2v-a14b": 248, "rgat": 788379, "pointpainting": 1024, "whisper": 1633, "qwen3-vl-235b-a22b": 48289,
    "yolo": 64, "3d-unet": 0,
    "mobilenet": 1024, "ssd-resnet34": 64,  # dropped by later rounds
    **dict.fromkeys(_twins("llama2-70b"), 24576),
    **dict.fromkeys(_twins("llama3_1-405b"), 8313),
    **dict.fromkeys(_twins("llama3_1-8b"), 13368),
    **dict.fromkeys(_twins("deepseek-r1"), 4388),
    **dict.fromkeys(_twins("gpt-oss-120b"), 6396),
}  # fmt: skip

_EQUAL_ISSUE = [
    "3d-unet", "rgat", "gptj", "mixtral-8x7b", "llama3_1-8b-edge", "whisper", "qwen3-vl-235b-a22b",
    *_twins("llama2-70b", "llama3_1-405b", "llama3_1-8b", "deepseek-r1", "gpt-oss-120b"),
]  # fmt: skip

# ms; 0 for models that are judged by their tokens.
_SERVER_LATENCY = {
    "resnet50": 15, "retinanet": 100, "bert": 130, "dlrm": 60, "dlrm-v2": 60, "dlrm-v3": 80, "rnnt": 1000,
    "gptj": 20000, "stable-diffusion-xl": 20000, "qwen3-vl-235b-a22b": 12000,
    **dict.fromkeys(_twins("llama2-70b", "llama3_1-405b", "llama3_1-8b", "deepseek-r1", "gpt-oss-120b"), 0),
    "mixtral-8x7b": 0,
    # Dropped by later rounds; from the last round that had them (v0.5, and v2.0 for the last).
    "mobilenet": 10, "ssd-mobilenet": 10, "ssd-resnet34": 100,
}  # fmt: skip

# Time to first token and time per output token, ms.
_TOKEN_LATENCIES: dict[str, tuple[int, int] | None] = {
    "llama2-70b": (2000, 200), "llama2-70b-interactive": (450, 40), "mixtral-8x7b": (2000, 200),
    "llama3_1-405b": (6000, 175), "llama3_1-405b-interactive": (4500, 80),
    "llama3_1-8b": (2000, 100), "llama3_1-8b-interactive": (500, 30), "llama3_1-8b-edge": None,
    "deepseek-r1": (2000, 80), "deepseek-r1-interactive": (1500, 15),
    "gpt-oss-120b": (3000, 80), "gpt-oss-120b-interactive": (2000, 15), "whisper": None,
}  # fmt: skip

_OFFLINE_QUERIES = {
    "resnet50": 24576, "retinanet": 24576, "dlrm-v2": 24576, "bert": 10833, "gptj": 13368, "rnnt": 2513, "3d-unet": 43,
    "stable-diffusion-xl": 5000, "wan-2.2-t2v-a14b": 248, "llama2-70b": 24576, "llama3_1-405b": 8313,
    "llama3_1-8b": 13368, "llama3_1-8b-edge": 5000, "mixtral-8x7b": 15000, "rgat": 788379, "deepseek-r1": 4388,
    "whisper": 1633, "qwen3-vl-235b-a22b": 48289,
    "mobilenet": 24576, "ssd-resnet34": 24576,  # dropped by later rounds
}  # fmt: skip


def built_in_values(mlperf_round: str = DEFAULT_ROUND) -> dict[str, float | int]:
    """The built-in configuration: key (``model.scenario.field``) to number, in the configuration files' units."""
    seeds = ROUNDS[mlperf_round]
    values: dict[str, float | int] = {
        "*.*.qsl_rng_seed": seeds.qsl,
        "*.*.sample_index_rng_seed": seeds.sample_index,
        "*.*.schedule_rng_seed": seeds.schedule,
        "*.*.test05_qsl_rng_seed": seeds.test05_qsl,
        "*.*.test05_sample_index_rng_seed": seeds.test05_sample_index,
        "*.*.test05_schedule_rng_seed": seeds.test05_schedule,
        **_GENERAL,
    }

    def put(scenario: str, field: str, pairs: Iterable[tuple[str, float]]) -> None:
        values.update({f"{model}.{scenario}.{field}": number for model, number in pairs})

    put("*", "performance_sample_count_override", _PERFORMANCE_SAMPLES.items())
    put("*", "sample_concatenate_permutation", ((model, 1) for model in _EQUAL_ISSUE))
    put("Server", "target_latency", _SERVER_LATENCY.items())
    put("*", "use_token_latencies", ((model, 1) for model in _TOKEN_LATENCIES))
    put("Server", "ttft_latency", ((m, pair[0]) for m, pair in _TOKEN_LATENCIES.items() if pair))
    put("Server", "tpot_latency", ((m, pair[1]) for m, pair in _TOKEN_LATENCIES.items() if pair))
    put("Offline", "min_query_count", _OFFLINE_QUERIES.items())
    return values
