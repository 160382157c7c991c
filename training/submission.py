"""A submission's folder, and MLPerf's own checker over a log.

``ORG/systems/SYSTEM.json``, ``ORG/results/SYSTEM/maskrcnn/result_{0..}.txt``.  Knows the form, not how runs are made.
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

from drumfire.training.mllog import BENCHMARK, Submission

RULESETS = ("3.1.0", "2.1.0")
"""Those with files for maskrcnn that a log is checked by here; later ones have none."""

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
"""What a system's description must have and this program can not know: left empty for a person to fill in."""


def write(folder: Path, logs: Sequence[Path], submission: Submission, results: Sequence[Mapping[str, Any]]) -> Path:
    """Lay out the package under ``folder``; returns the organisation's folder, which the checkers take."""
    organisation = folder / submission.org
    system = organisation / "systems" / f"{submission.platform}.json"
    runs = organisation / "results" / submission.platform / BENCHMARK
    for place in (system.parent, runs):
        place.mkdir(parents=True, exist_ok=True)
    system.write_text(json.dumps(_system(submission, results[0]), indent=2) + "\n")
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
