"""The cluster files, as far as they can be checked without a cluster: fields, paths, access."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import ray.autoscaler
import yaml

from configs.load import REPOSITORY, load
from configs.schema import Config

KUBERAY = REPOSITORY / "cluster/kuberay.yaml"
RAY_UP = REPOSITORY / "cluster/ray_up.yaml"

# Fields of KubeRay's types that the file uses (ray.io/v1, KubeRay 1.6's API reference).
FIELDS = {
    "RayJob": {"apiVersion", "kind", "metadata", "spec"},
    "RayJobSpec": {
        "entrypoint",
        "backoffLimit",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "rayClusterSpec",
    },
    "RayClusterSpec": {
        "rayVersion",
        "authOptions",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    },
    "HeadGroupSpec": {"rayStartParams", "template"},
    "WorkerGroupSpec": {
        "groupName",
        "replicas",
        "minReplicas",
        "maxReplicas",
        "rayStartParams",
        "template",
    },
}


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return dict(yaml.safe_load(KUBERAY.read_text()))


@pytest.fixture(scope="module")
def up() -> dict[str, Any]:
    return dict(yaml.safe_load(RAY_UP.read_text()))


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_fields_are_kuberays(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert set(job) == FIELDS["RayJob"]
    assert set(job["spec"]) <= FIELDS["RayJobSpec"]
    assert set(cluster) <= FIELDS["RayClusterSpec"]
    assert set(cluster["headGroupSpec"]) <= FIELDS["HeadGroupSpec"]
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= FIELDS["WorkerGroupSpec"]
        # KubeRay passes them on as words of a command line.
        for value in group["rayStartParams"].values():
            assert isinstance(value, str)
    assert cluster["rayVersion"] == ray.__version__


def test_everything_relative_lies_on_the_shared_volume(job: dict[str, Any]) -> None:
    folders = set()
    for pod in pods(job):
        [container] = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        claims = {each["name"] for each in pod["volumes"] if "persistentVolumeClaim" in each}
        [shared] = claims & set(mounts)
        folder = PurePosixPath(container["workingDir"])
        assert folder.is_relative_to(mounts[shared])
        # The code is the checkout's, so that paths of presets start there.
        env = {each["name"]: each["value"] for each in container["env"]}
        assert env["PYTHONPATH"] == str(folder)
        folders.add(folder)
    # Driver and actors see the same files.
    [folder] = folders
    assert f"cd {folder} &&" in job["spec"]["entrypoint"]


def test_the_entrypoint_is_a_command_that_loads(job: dict[str, Any]) -> None:
    words = job["spec"]["entrypoint"].strip('"').split("ray_jobs.train ")[1].split()
    cfg: Config = load(words)
    assert cfg.cluster.autoscaler == "yes"
    # None of these is made in a pod that goes away.
    for path in (cfg.runs, cfg.policy.path, cfg.segmenter.path, cfg.data.root):
        assert not Path(path).is_absolute()


def test_the_job_waits_for_workers_and_is_queued(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    [workers] = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    pod = workers["template"]["spec"]
    assert pod["nodeSelector"]
    assert pod["tolerations"]
    assert "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]


def test_ray_up_has_rays_fields(up: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    assert set(up) <= set(schema["properties"])
    assert set(up["provider"]) <= set(schema["properties"]["provider"]["properties"])
    assert set(schema["required"]) <= set(up)


def test_ray_up_opens_nothing_without_a_token(up: dict[str, Any]) -> None:
    starts = [*up["head_start_ray_commands"], *up["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command
        assert "0.0.0.0" not in command
    assert "~/.ray/auth_token" in up["file_mounts"]


def test_ray_up_updates_an_old_checkout(up: dict[str, Any]) -> None:
    commands = up["setup_commands"]
    assert not any("|| true" in command for command in commands)
    assert any("git fetch" in command and "git checkout" in command for command in commands)
