"""The text of Prometheus metrics."""

from __future__ import annotations

from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.remote.kserve import metrics
from tests.fuzz.harness import check_line

SEEDS = [
    b'# HELP nv_gpu_utilization GPU\n# TYPE nv_gpu_utilization gauge\nnv_gpu_utilization{gpu_uuid="GPU-1"} 0.5\n'
    b'# TYPE nv_energy_consumption counter\nnv_energy_consumption{gpu_uuid="GPU-1"} 12.5\n'
    b"nv_cpu_utilization 0.25\n"
    b'nv_inference_pending_request_count{model="m",version="1"} 3\n',
    b'nv_gpu_power_usage{gpu_uuid="a\\"b"} 1e3 1700000000000\n\nother{x="y"} NaN\n',
    b'# TYPE nv_gpu_memory_used_bytes untyped\nnv_gpu_memory_used_bytes{} +Inf # {trace="1"} 3\n',
]
TOKENS = [
    b'{a="b"}',
    b"{",
    b"}",
    b"# TYPE nv_cpu_utilization histogram\n",
    b"# EOF",
    b"nv_cpu_utilization",
    b"_total",
    b"_bucket",
    b'le="1"',
    b"\\",
    b"=",
    b" ",
]


def read(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    metrics.tells_of(text, "m")
    try:
        metrics.read(text, "m", "1")
    except ServerError as error:
        check_line(error)
