"""The recipes of docker/multihost: what can be known of them without Kubernetes and Slurm.

The schema is our own and small: of KubeRay's RayJob and of pods it has the fields that the manifest may use, and what
each must be.  A field that it does not know, such as a misspelt one, is an error.
"""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.command import options

FOLDER = Path(__file__).parents[3] / "docker" / "multihost"
TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
COUNT = {"type": "integer", "minimum": 0}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi)?$"}


def only(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    properties = {**required, **optional}
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


def list_of(what: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": what}


AMOUNTS = only({"cpu": QUANTITY, "memory": QUANTITY})
CONTAINER = only(
    {"name": TEXT, "image": TEXT, "resources": only({"requests": AMOUNTS, "limits": AMOUNTS})},
    env=list_of(only({"name": TEXT, "value": TEXT})),
    volumeMounts=list_of(only({"name": TEXT, "mountPath": TEXT})),
)
EMPTY = only({}, medium={"const": "Memory"}, sizeLimit=QUANTITY)
TERM = only({"topologyKey": TEXT, "labelSelector": only({"matchLabels": TEXTS})})
POD = only(
    {"containers": list_of(CONTAINER)},
    volumes=list_of(only({"name": TEXT, "emptyDir": EMPTY})),
    affinity=only({"podAntiAffinity": only({"requiredDuringSchedulingIgnoredDuringExecution": list_of(TERM)})}),
)
GROUP = {"rayStartParams": TEXTS, "template": only({"spec": POD})}
CLUSTER = only(
    {
        "headGroupSpec": only(GROUP),
        "workerGroupSpecs": list_of(
            only({**GROUP, "groupName": TEXT, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT})
        ),
    },
    rayVersion=TEXT,
    authOptions=only({"mode": {"enum": ["token", "disabled"]}}),
)
RAY_JOB = only(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": only({"name": {"type": "string", "pattern": "^[a-z0-9-]+$"}}),
        "spec": only(
            {"entrypoint": TEXT, "rayClusterSpec": CLUSTER},
            backoffLimit=COUNT,
            shutdownAfterJobFinishes={"type": "boolean"},
            ttlSecondsAfterFinished=COUNT,
        ),
    }
)


@pytest.fixture
def manifest() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    found: dict[str, Any] = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
    return found


def test_the_manifest_is_a_ray_job(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, RAY_JOB)
    misspelt = copy.deepcopy(manifest)
    misspelt["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(misspelt, RAY_JOB)


def test_the_manifest_holds_together(manifest: dict[str, Any]) -> None:
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (group,) = cluster["workerGroupSpecs"]
    run = options(*shlex.split(spec["entrypoint"])[1:])
    assert run.system.fleet.hosts == group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["backoffLimit"] == 0
    for one in (cluster["headGroupSpec"], group):
        pod = one["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            environment = {entry["name"]: entry["value"] for entry in container["env"]}
            assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
            if one is group:
                assert container["resources"]["limits"]["cpu"] == group["rayStartParams"]["num-cpus"]
    anti = group["template"]["spec"]["affinity"]["podAntiAffinity"]
    (term,) = anti["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"] == {"ray.io/group": group["groupName"]}


def test_the_versions_are_the_tested_ones(manifest: dict[str, Any]) -> None:
    constraints = (FOLDER.parents[1] / "constraints.txt").read_text()
    (pinned,) = re.findall(r"^ray==(\S+)$", constraints, re.MULTILINE)
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_the_script_is_bash() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash to read a script")
    subprocess.run([bash, "-n", FOLDER / "slurm.sbatch"], check=True)


def test_the_commands_in_the_recipes_are_ours() -> None:
    """Each drumfire command of the page and of the script is one that the command line takes."""
    page = (FOLDER / "README.md").read_text().replace("\\\n", " ")
    script = (FOLDER / "slurm.sbatch").read_text().replace("\\\n", " ")
    found = re.findall(r"(?:bin/drumfire|\$drumfire\"?) ((?:cluster|run)[^;\n'`\"]*)", page + script)
    assert len(found) >= 6
    for command in found:
        words = re.sub(r"\$\{?\w+\}?", "x", command.replace("$port", "6379").replace("$nodes", "2")).split()
        words = [word for word in words if word not in ("||", "&&", "done", "&")]
        if words[0] == "run":
            continue  # the script's has the user's words in it, and the page's is in the manifest
        options(*words)
