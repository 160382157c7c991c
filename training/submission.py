"""Writes a submission's folder, and runs MLPerf's compliance checker on a log.

``ORG/systems/SYSTEM.json``, ``ORG/results/SYSTEM/BENCHMARK/result_{0..}.txt``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drumfire.training.mllog import Submission

_UNKNOWN = (
    "host_processor_frequency",
    "host_processor_caches",
    "host_processor_interconnect",
    "host_memory_capacity",
    "host_storage_type",
    "host_storage_capacity",
    "host_networking",
    "host_networking_topology",
    "host_memory_configuration",
    "accelerator_host_interconnect",
    "accelerator_frequency",
    "accelerator_on-chip_memories",
    "accelerator_memory_configuration",
    "accelerator_memory_capacity",
    "accelerator_interconnect",
    "accelerator_interconnect_topology",
    "cooling",
    "hw_notes",
)
"""Required in a system's description but unknown to this program: left empty for a person to fill in."""


def write(
    folder: Path, benchmark: str, logs: Sequence[Path], submission: Submission, result: Mapping[str, Any]
) -> Path:
    """Write the submission below ``folder``, with the system of ``result``.

    Returns the organisation's folder, which MLPerf's checkers take as their argument.
    """
    organisation = folder / submission.org
    system = organisation / "systems" / f"{submission.platform}.json"
    runs = organisation / "results" / submission.platform / benchmark
    for place in (system.parent, runs):
        place.mkdir(parents=True, exist_ok=True)
    system.write_text(json.dumps(_system(submission, result), indent=2) + "\n")
    for number, log in enumerate(logs):
        shutil.copyfile(log, runs / f"result_{number}.txt")
    return organisation


def accepts(log: Path, ruleset: str) -> bool:
    """Whether MLPerf's compliance checker accepts the log."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "mlperf_logging.compliance_checker", "--usage", "training"),
            *("--ruleset", ruleset, "--log_output", f"{folder}/log", str(log)),
        ]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _system(submission: Submission, result: Mapping[str, Any]) -> dict[str, str]:
    environment = result["environment"]
    gpus = environment["gpus_per_host"]
    return {
        "submitter": submission.org,
        "division": submission.division,
        "status": submission.status,
        "system_name": submission.platform,
        "number_of_nodes": str(environment["hosts"]),
        "host_processors_per_node": "1",
        "host_processor_model_name": environment["cpu"],
        "host_processor_core_count": str(environment["cores"]),
        "host_processor_vcpu_count": str(environment["cores"]),
        "accelerators_per_node": str(gpus),
        "accelerator_model_name": environment["device"] if gpus else "none",
        "framework": f"PyTorch {environment['versions']['torch']}",
        "other_software_stack": ", ".join(f"{name} {version}" for name, version in environment["versions"].items()),
        "operating_system": environment["system"],
        "sw_notes": f"benchmark {result['task']}",
    } | dict.fromkeys(_UNKNOWN, "")
