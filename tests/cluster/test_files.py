"""The cluster files, as far as they can be checked without a cluster: fields, paths, access."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray._private.runtime_env.packaging import create_package

from configs.load import REPOSITORY, load
from configs.schema import Config
from tests.cluster.kuberay_schema import schema_of

FOLDER = REPOSITORY / "cluster"
KUBERAY = {"kuberay.yaml": "RayJob", "kuberay_cluster.yaml": "RayCluster"}
RAY_UP = ("ray_up.yaml", "ray_up_cloud.yaml")


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((FOLDER / name).read_text()))


def cluster_of(name: str) -> dict[str, Any]:
    spec = read(name)["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        yield group["template"]["spec"]


@pytest.mark.parametrize("name", KUBERAY)
def test_fields_are_kuberays(name: str) -> None:
    schema = schema_of(KUBERAY[name])
    jsonschema.validate(read(name), schema)
    assert cluster_of(name)["rayVersion"] == ray.__version__
    for wrong in ("enableInTreeAutoscaler", "backOffLimit"):
        misspelt = read(name)
        misspelt["spec"][wrong] = True
        with pytest.raises(jsonschema.ValidationError, match=wrong):
            jsonschema.validate(misspelt, schema)


@pytest.mark.parametrize("name", KUBERAY)
def test_everything_relative_lies_on_the_shared_volume(name: str) -> None:
    folders = set()
    for pod in pods(cluster_of(name)):
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
    # Driver and actors see the same files, and the command begins there.
    [folder] = folders
    assert f"cd {folder} &&" in (FOLDER / name).read_text()


@pytest.mark.parametrize("name", KUBERAY)
def test_shared_memory_fits_rays_object_store(name: str) -> None:
    """A container has 64 MiB otherwise, and the store goes to the disk."""
    for pod in pods(cluster_of(name)):
        [container] = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        [shm] = [each for each in pod["volumes"] if each["name"] == mounts["/dev/shm"]]
        assert shm["emptyDir"]["medium"] == "Memory"
        size = int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi"))
        memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi"))
        # Ray takes 30 % of the memory if the folder is as large; the folder counts as memory.
        assert 0.2 * memory <= size <= 0.5 * memory


def test_the_entrypoint_is_a_command_that_loads() -> None:
    words = read("kuberay.yaml")["spec"]["entrypoint"].strip('"').split("ray_jobs.train ")[1]
    cfg: Config = load(words.split())
    assert cfg.cluster.autoscaler == "yes"
    # The second group of workers is for engines beyond the first ones.
    assert cfg.rollout.workers == "auto"
    assert cfg.rollout.max_workers > cfg.rollout.min_workers
    # None of these is made in a pod that goes away.
    for path in (cfg.runs, cfg.policy.path, cfg.segmenter.path, cfg.data.root):
        assert not Path(path).is_absolute()


@pytest.mark.parametrize("name", KUBERAY)
def test_workers_come_and_go_and_the_job_is_queued(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert set(groups) == {"gpu", "rollout"}
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
        pod = group["template"]["spec"]
        assert pod["nodeSelector"]
        assert pod["tolerations"]
        requests = pod["containers"][0]["resources"]["requests"]
        assert requests["nvidia.com/gpu"] >= 1
    assert "kueue.x-k8s.io/queue-name" in read(name)["metadata"]["labels"]


def test_a_failed_job_is_tried_again() -> None:
    spec = read("kuberay.yaml")["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_has_rays_fields(name: str) -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    up = read(name)
    jsonschema.validate(up, schema)
    kinds = up.get("available_node_types", {})
    assert up.get("head_node_type", "head") in {"head", *kinds}
    most = sum(kind.get("max_workers", 0) for kind in kinds.values())
    assert up.get("max_workers", 0) == most


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_opens_nothing_without_a_token(name: str) -> None:
    up = read(name)
    starts = [*up["head_start_ray_commands"], *up["worker_start_ray_commands"]]
    starts = [command for command in starts if "ray start" in command]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command
        assert "0.0.0.0" not in command
    assert "~/.ray/auth_token" in up["file_mounts"]


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_updates_an_old_checkout(name: str) -> None:
    up = read(name)
    commands = up.get("setup_commands", []) + up.get("head_setup_commands", [])
    assert not any("|| true" in command for command in commands)
    assert any("git fetch" in command and "git checkout" in command for command in commands)


def test_the_image_is_built_on_any_base() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    assert "ARG BASE" in lines
    [start] = [line for line in lines if line.startswith("FROM")]
    assert start == "FROM ${BASE}"
    assert any("make env EXTRA=${EXTRA}" in line for line in lines)
    # Models and data stay out of the image.
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert {"checkpoints/", "datasets/", "runs/", ".venv/"} <= set(ignored)


# In place of Slurm's commands: one machine, on which each node is a process.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> "$SLURM_SUBMIT_DIR/scontrol"
if [ "$1" = show ]; then echo one; sleep 0.2; echo two; fi
"""
RAY = """#!/bin/bash
echo "$@" >> "$SLURM_SUBMIT_DIR/ray"
if [ "$1" = start ]; then exec sleep 60; fi
"""
# The training: it stops when it is asked to, a moment later.
PYTHON = """#!/bin/bash
echo "$@" >> "$SLURM_SUBMIT_DIR/python"
trap 'sleep 1; exit 75' TERM
sleep 60 & wait
"""


def test_slurm_starts_a_cluster_and_queues_a_stopped_job_again(tmp_path: Path) -> None:
    """The script runs as it is, with small programs in place of Slurm, Ray and the training."""
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    scripts = {"srun": SRUN, "scontrol": SCONTROL, "ray": RAY, "python": PYTHON}
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "token").write_text("t")
    slurm = {
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }
    with subprocess.Popen(
        ["bash", FOLDER / "slurm.sh", "revseg_7b", "name=night"],
        env=os.environ | slurm,
        start_new_session=True,
    ) as job:
        deadline = time.monotonic() + 60
        while not (tmp_path / "python").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        job.send_signal(signal.SIGTERM)
        assert job.wait(30) == 75
        os.killpg(job.pid, signal.SIGKILL)
    words = (tmp_path / "python").read_text().split()
    assert words[:3] == ["-m", "ray_jobs.train", "revseg_7b"]
    assert load(words[2:]).cluster.address == "one:24567"
    started = (tmp_path / "ray").read_text()
    assert "start --block --head --port=24567 --dashboard-host=127.0.0.1" in started
    assert "start --block --address=one:24567" in started
    assert (tmp_path / "scontrol").read_text().splitlines()[-1] == "requeue 1234567"


def test_slurm_directives_are_read_before_the_first_command() -> None:
    text = (FOLDER / "slurm.sh").read_text()
    directives = re.findall(r"^#SBATCH --([\w-]+)", text, flags=re.MULTILINE)
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "signal", "requeue"} <= set(directives)
    assert text.index("set -euo") > text.rindex("#SBATCH")


def test_a_large_policy_is_not_uploaded_with_the_checkout(tmp_path: Path) -> None:
    """Ray packs the folder as `ray job submit --working-dir .` does; it refuses 500 MB."""
    checkout = tmp_path / "checkout"
    shutil.copytree(REPOSITORY / "configs", checkout / "configs")
    for name in (".rayignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, checkout / name)
    policy = checkout / "checkpoints/Qwen2.5-VL-7B-Instruct/model.safetensors"
    policy.parent.mkdir(parents=True)
    with policy.open("wb") as sparse:
        sparse.truncate(600 << 20)
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=False)
    assert package.stat().st_size < 1 << 20
    names = subprocess.run(
        ["python3", "-m", "zipfile", "-l", str(package)], capture_output=True, text=True
    ).stdout
    assert "configs/revseg_7b.yaml" in names
    assert "safetensors" not in names
