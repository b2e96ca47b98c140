"""`ray_jobs.evaluate` measures the same as `ray_jobs.train` before training, also after a kill."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.load import REPOSITORY, load
from core.files import append_lines, read_lines
from data.load import load_samples
from ray_jobs.driver.benchmark import evaluation_identity
from ray_jobs.record.predictions import FILE, Predictions
from ray_jobs.submission import submission
from tests.data.fixtures import NAMES, Written, ref_youtube_vos, revos
from tests.ray_jobs.conftest import (
    EVALUATED,
    TIMEOUT_S,
    Finished,
    Small,
    command,
    environment,
    run_job,
    told,
)
from tests.ray_jobs.test_resume import left

# Expressions of the small test split.
EXPRESSIONS = 6
ALL = ("evaluate.samples=0", "evaluate.chunk=1")


@contextmanager
def started(*settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """An evaluation in the background; it and its children are killed by pid in the end."""
    process = subprocess.Popen(
        command("evaluate", *settings),
        cwd=REPOSITORY,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    family: list[psutil.Process] = []
    try:
        yield process
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        # SIGKILL to the driver first: nobody gets to clean up.
        process.kill()
        process.wait()
        for orphan in left(family, 0):
            orphan.kill()


@dataclass(frozen=True)
class Killed:
    """An evaluation of the whole split, killed half-way and started again.

    Attributes:
        folder: its files.
        before: its predictions at the kill.
        was_complete: whether it had a summary at the kill.
        output: what the second start printed.
    """

    folder: Path
    before: bytes
    was_complete: bool
    output: str


@pytest.fixture(scope="module")
def killed(small: Small) -> Killed:
    settings = [*small.settings("alone"), *ALL]
    folder = small.run("alone").path / "evaluate"
    with started(*settings) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not read_lines(folder / FILE) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
        # Not one line more.
        process.send_signal(signal.SIGSTOP)
    before = (folder / FILE).read_bytes()
    was_complete = (folder / "summary.json").exists()
    done = run_job("evaluate", *settings)
    assert done.returncode == 0, told(done)
    return Killed(folder, before, was_complete, done.stdout)


@pytest.fixture(scope="module")
def alone(killed: Killed) -> Path:
    """The folder of a finished evaluation of the whole split."""
    return killed.folder


@pytest.mark.slow
def test_killed_evaluation_goes_on(killed: Killed) -> None:
    """Its figures are compared with those of a training run, and of other starts, below."""
    finished = killed.before.count(b"\n")
    assert 0 < finished < EXPRESSIONS
    assert not killed.was_complete
    assert (
        f"{finished} of {EXPRESSIONS} expressions were finished before and are not played again"
        in killed.output
    )
    after = (killed.folder / FILE).read_bytes()
    whole_lines = killed.before[: killed.before.rfind(b"\n") + 1]
    assert after.startswith(whole_lines), "what was finished is still there"
    lines = read_lines(killed.folder / FILE)
    assert len(lines) == EXPRESSIONS
    assert len({line["uid"] for line in lines}) == EXPRESSIONS


@pytest.mark.slow
def test_several_benchmarks_in_one_table(small: Small, alone: Path, tmp_path: Path) -> None:
    """Three sets, the first one as after a kill: its figures are those of another start."""
    folder = small.run("several").path / "evaluate"
    halfway = folder / "mevis_test"
    halfway.mkdir(parents=True)
    shutil.copy(alone / "evaluation.json", halfway)
    append_lines(halfway / FILE, *read_lines(alone / FILE)[:2])
    reasoning = revos(tmp_path / "revos")
    hidden = ref_youtube_vos(tmp_path / "hidden")
    sets = [
        f"{{format: mevis, root: {small.data}, split: test}}",
        f"{{format: revos, root: {reasoning.root}, split: valid, no_target: keep}}",
        f"{{format: ref_youtube_vos, root: {hidden.root}, split: valid}}",
    ]
    chosen = f"evaluate.sets=[{', '.join(sets)}]"
    done = run_job("evaluate", *small.settings("several"), *ALL, chosen)
    assert done.returncode == 0, told(done)
    assert f"mevis_test: 2 of {EXPRESSIONS} expressions were finished before" in done.stdout
    assert done.stdout.count("start: rollout engines") == 1

    for name in ("summary.json", "per_expression.csv", "evaluation.json"):
        assert (halfway / name).read_text() == (alone / name).read_text(), "to the last digit"
    measured = json.loads((alone / "summary.json").read_text())
    rows = [row for row in rows_of(folder / "table.csv") if row["source"] == "this run"]
    figures = {(row["set"], row["figure"]): row["value"] for row in rows}
    for figure in ("J", "F", "J&F"):
        assert float(figures["mevis_test", figure]) == measured[figure]
    assert float(figures["revos_valid", "N-acc"]) >= 0
    check_revos(folder / "revos_valid", reasoning)
    assert figures["ref_youtube_vos_valid", "J&F"] == ""
    assert "| Ref-YouTube-VOS valid (2) | J | submit |" in (folder / "table.md").read_text()
    assert r"\toprule" in (folder / "table.tex").read_text()

    whole = json.loads((folder / "summary.json").read_text())
    assert set(whole["sets"]) == {"mevis_test", "revos_valid", "ref_youtube_vos_valid"}
    with zipfile.ZipFile(whole["submissions"]["ref_youtube_vos_valid"]) as zipped:
        assert len(zipped.namelist()) == 2 * len(NAMES)
    check_mlflow(small, folder, measured)


def check_revos(folder: Path, written: Written) -> None:
    """ReVOS has a protocol of its own, and an expression without a target."""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["protocol"] == "revos"
    assert summary["J&F"] == pytest.approx(
        (summary["referring/J&F"] + summary["reasoning/J&F"]) / 2
    )
    assert summary["no_target"]["expressions"] == 1
    assert {"R@binary", "R@visa255"} <= summary.keys()
    assert {line["uid"] for line in read_lines(folder / FILE)} == set(written.expected)


def check_mlflow(small: Small, folder: Path, measured: dict[str, Any]) -> None:
    """One run of MLflow has the figures and files of every set, and the table."""
    from mlflow import MlflowClient

    client = MlflowClient(small.mlflow_uri)
    run_id = json.loads((folder / "mlflow.json").read_text())[small.mlflow_uri]["run_id"]
    metrics = client.get_run(run_id).data.metrics
    assert metrics["mevis_test/J_F"] == pytest.approx(measured["J&F"])
    assert "revos_valid/referring/J_F" in metrics
    kept = {file.path for file in client.list_artifacts(run_id)}
    assert {"table.md", "table.csv", "table.tex", "summary.json", "mevis_test"} <= kept
    of_set = {file.path for file in client.list_artifacts(run_id, "mevis_test")}
    assert {"mevis_test/summary.json", "mevis_test/overlays"} <= of_set


@pytest.mark.slow
def test_other_settings_and_weights_are_not_mixed_in(
    small: Small, alone: Path, tmp_path: Path
) -> None:
    def opened(*changed: str) -> Predictions:
        cfg = load([*command("evaluate", *small.settings("alone"), *ALL)[3:], *changed])
        return Predictions.open(
            alone, evaluation_identity(cfg, load_samples("mevis", cfg.data.root, "test"))
        )

    assert len(opened("rollout.workers=2", "name=other").finished) == EXPRESSIONS
    with pytest.raises(ValueError, match=r"\(seed=0 there, 5 now\): .* or evaluate.resume=never"):
        opened("seed=5")
    weights = shutil.copytree(REPOSITORY / "tiny/weights/revseg", tmp_path / "policy")
    assert opened(f"policy.path={weights}").finished, "the same weights elsewhere are the same"
    with (weights / "model.safetensors").open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"another!")
    with pytest.raises(ValueError, match="contents of policy.path="):
        opened(f"policy.path={weights}")


@pytest.mark.slow
def test_files_of_an_evaluation(small: Small, alone: Path) -> None:
    from mlflow import MlflowClient

    with zipfile.ZipFile(submission(alone)) as file:
        lines = read_lines(alone / FILE)
        assert len(file.namelist()) == sum(len(line["frames"]) for line in lines)
    client = MlflowClient(small.mlflow_uri)
    run_id = json.loads((alone / "mlflow.json").read_text())[small.mlflow_uri]["run_id"]
    kept = {file.path for file in client.list_artifacts(run_id)}
    assert {"summary.json", "per_expression.csv", "predictions.jsonl"} <= kept
    assert {"evaluation.json", "overlays"} <= kept
    assert len(client.list_artifacts(run_id, "overlays")) == 4
    assert len(list((alone / "overlays").glob("*.mp4"))) == 4


@pytest.mark.slow
def test_the_same_numbers_as_before_training(finished: Finished, alone: Path) -> None:
    """A part of a finished evaluation needs no engine, and the training run was never killed."""
    done = run_job("evaluate", *finished.small.settings("alone"))
    assert done.returncode == 0, told(done)
    assert f"{EVALUATED} of {EVALUATED} expressions were finished before" in done.stdout
    assert "rollout engines" not in done.stdout
    folder = finished.small.run("alone").path / "evaluate"
    summary = finished.run.summary()
    measured = json.loads((folder / "summary.json").read_text())
    assert summary is not None
    assert measured["expressions"] == EVALUATED
    assert measured["J&F"] == pytest.approx(summary["jf_before"], abs=1e-6)
    assert measured["reward"] == pytest.approx(summary["reward_before"], abs=1e-6)
    assert f"{measured['J&F']:.3f}" in done.stdout
    trained = finished.run.path / "evaluation" / "step_0" / "greedy" / "per_expression.csv"
    assert answers_of(folder / "per_expression.csv") == answers_of(trained)
    assert jf_of(folder / "per_expression.csv") == pytest.approx(jf_of(trained), abs=2e-4)
    jf = jf_of(folder / "per_expression.csv")
    assert 100 * sum(jf.values()) / len(jf) == pytest.approx(measured["J&F"], abs=0.01)
    assert list((folder / "overlays").glob("*.mp4"))


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def answers_of(table: Path) -> dict[str, Any]:
    """Return the answer to every expression."""
    return {row["uid"]: json.loads(row["answer"]) for row in rows_of(table)}


def jf_of(table: Path) -> dict[str, float]:
    """Return J&F of every expression."""
    return {row["uid"]: float(row["J&F"]) for row in rows_of(table)}
