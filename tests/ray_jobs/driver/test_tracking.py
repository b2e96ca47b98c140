"""What people compare in MLflow: parameters, tags, data, how a run ended, episodes. Real MLflow."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from configs.load import REPOSITORY, load, to_yaml
from core.types import Sample
from ray_jobs.ablate import ablate
from ray_jobs.driver.ablations import Ablation, Variant
from ray_jobs.driver.results import Evaluation, Result
from ray_jobs.driver.tracking import tracked
from ray_jobs.record.owner import owned
from ray_jobs.record.run_folder import RunFolder
from tests.ray_jobs.replay_run import HOSTILE, group_of, keeping_of, sample_of


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests, since making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def arguments_of(uri: str, runs: Path, name: str, *settings: str) -> list[str]:
    # An experiment for each test.
    experiment = f"tracking.experiment={runs.name}"
    own = [f"runs={runs}", f"name={name}", f"tracking.mlflow_uri={uri}", experiment]
    return ["revseg_tiny", *own, *settings]


def run_once(
    arguments: Sequence[str], samples: Sequence[Sample] = (), error: BaseException | None = None
) -> RunFolder:
    """Record two steps in MLflow as a job does, then end or fail."""
    cfg = load(arguments)
    path = Path(cfg.runs) / cfg.name
    with owned(path):
        record = RunFolder.open(path, to_yaml(cfg), repository=REPOSITORY)
        with tracked(cfg, "", record, {"train": samples, "valid": samples}) as tracker:
            tracker.metrics(1, {"reward": 1.0})
            tracker.metrics(2, {"reward": 2.0})
            if error is not None:
                raise error
    return record


def found(uri: str, runs: Path, query: str = "") -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(runs.name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], query))


def the_run(uri: str, runs: Path, name: str) -> Run:
    [run] = found(uri, runs, f"attributes.run_name = '{name}'")
    return run


def test_two_runs_are_compared_by_a_setting_and_told_apart_by_tags(
    uri: str, tmp_path: Path
) -> None:
    samples = [sample_of(tmp_path / "video", "v/0", "the red square")]
    for name, rate in (("slow", "1e-5"), ("fast", "0.001")):
        run_once(arguments_of(uri, tmp_path, name, f"learner.lr={rate}"), samples)
    [slow] = found(uri, tmp_path, "params.learner.lr = '1e-05'")
    [fast] = found(uri, tmp_path, "params.learner.lr = '0.001'")
    assert slow.info.run_name == "slow"
    differing = []
    for key, value in slow.data.params.items():
        if fast.data.params[key] != value:
            differing.append(key)
    assert sorted(differing) == ["learner.lr", "name"]
    assert slow.data.params["system.options.temporal_reward"] == "soft"

    tags = slow.data.tags
    assert tags["system"] == "revseg"
    assert tags["preset"] == "revseg_tiny"
    assert len(tags["commit"]) == 40 == len(tags["mlflow.source.git.commit"])
    assert tags["data_digest"] == fast.data.tags["data_digest"]
    inputs = {}
    for each in slow.inputs.dataset_inputs:
        inputs[each.dataset.name] = each.tags[0].value
        assert json.loads(each.dataset.profile) == {"samples": 1, "videos": 1}
    assert inputs == {"mevis train": "training", "mevis valid": "evaluation"}

    other = [sample_of(tmp_path / "video", "v/0", "another sentence")]
    run_once(arguments_of(uri, tmp_path, "other"), other)
    assert the_run(uri, tmp_path, "other").data.tags["data_digest"] != tags["data_digest"]


def test_an_error_is_failed_a_stop_is_killed_and_the_end_finished(uri: str, tmp_path: Path) -> None:
    arguments = arguments_of(uri, tmp_path, "one")
    for error, status in (
        (RuntimeError("no"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (None, "FINISHED"),
    ):
        with suppress(RuntimeError, KeyboardInterrupt):
            run_once(arguments, error=error)
        assert the_run(uri, tmp_path, "one").info.status == status


# Killed in the middle of its third step, as by the system when memory is out.
KILLED = """
from ray_jobs.driver import supervisor
if __name__ == "__main__":
    supervisor.supervise(first_wait_s=0.05)

import os, signal, sys, time
from pathlib import Path
from configs.load import load, to_yaml
from ray_jobs.driver.tracking import tracked
from ray_jobs.record.owner import owned
from ray_jobs.record.run_folder import RunFolder

supervisor.tell(f"max_restarts {sys.argv[1]}")
cfg = load(sys.argv[2:])
path = Path(cfg.runs) / cfg.name
with owned(path):
    record = RunFolder.open(path, to_yaml(cfg))
    with tracked(cfg, "", record, {}) as tracker:
        supervisor.tell("opened")
        last = 3 if supervisor.is_again() else 2
        for step in range(1, last + 1):
            tracker.metrics(step, {"reward": step})
        while not tracker.delivered():
            time.sleep(0.05)
        print("delivered", flush=True)
        if "wait" in cfg.name:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def start_killed(restarts: int, arguments: Sequence[str]) -> subprocess.Popen[str]:
    runs = Path(arguments[1].removeprefix("runs="))
    (runs / "job.py").write_text(KILLED)
    command = [sys.executable, str(runs / "job.py"), str(restarts), *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_after_kill_9_the_supervisor_says_failed_and_no_step_is_there_twice(
    uri: str, tmp_path: Path
) -> None:
    with start_killed(1, arguments_of(uri, tmp_path, "killed")) as job:
        assert job.wait(240) == 128 + signal.SIGKILL
    run = the_run(uri, tmp_path, "killed")
    assert run.info.status == "FAILED"
    history = MlflowClient(uri).get_metric_history(run.info.run_id, "reward")
    assert [(point.step, point.value) for point in history] == [(1, 1), (2, 2), (3, 3)]


def test_a_run_that_nobody_outlived_is_failed_at_the_next_start_of_any_run(
    uri: str, tmp_path: Path
) -> None:
    with start_killed(0, arguments_of(uri, tmp_path, "waiting")) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "delivered\n"
        run_once(arguments_of(uri, tmp_path, "beside"))
        assert the_run(uri, tmp_path, "waiting").info.status == "RUNNING", "it lives"
        job.send_signal(signal.SIGKILL)
    # The kernel kills the child of a dead parent, a moment later.
    deadline = time.monotonic() + 60
    while the_run(uri, tmp_path, "waiting").info.status == "RUNNING":
        assert time.monotonic() < deadline
        run_once(arguments_of(uri, tmp_path, "after"))
    assert the_run(uri, tmp_path, "waiting").info.status == "FAILED"


def test_runs_of_an_ablation_are_children_with_its_table_above(uri: str, tmp_path: Path) -> None:
    variants = (Variant("low", ("learner.lr=1e-5",), "60"), Variant("high", (), "50"))

    def start(job: str, arguments: Sequence[str]) -> int:
        record = run_once(arguments)
        summary = {"steps": 9, "jf_after": 50.0, "sampled_jf_after": 45.0}
        record.write_summary(summary)
        return 0

    settings = ["train.steps=9", f"runs={tmp_path}", f"tracking.mlflow_uri={uri}"]
    ablate("trial", Ablation("revseg_tiny", "paper", variants), [0, 1], settings, start)
    experiment = tmp_path / "ablate_trial"
    parent = the_run(uri, experiment, "ablate_trial")
    children = found(uri, experiment, f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    names = {child.info.run_name for child in children}
    assert names == {"low_seed0", "low_seed1", "high_seed0", "high_seed1"}
    assert {child.data.params["seed"] for child in children} == {"0", "1"}
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["J_F/low"] == 50.0
    [table] = MlflowClient(uri).list_artifacts(parent.info.run_id)
    assert table.path == "table.md"


def play(uri: str, tmp_path: Path, say: Callable[[str], None]) -> tuple[Run, list[Any]]:
    """Record a step and an evaluation with kept episodes, twice, as after a kill."""
    good = sample_of(tmp_path / "video", "v/0", "the red square")
    groups = [group_of(good, 1, ("<think>it moves</think>", f"{HOSTILE}\0"))]
    cfg = load(arguments_of(uri, tmp_path, "play"))
    record = RunFolder.open(tmp_path / "play", to_yaml(cfg))
    for _ in range(2):
        with tracked(cfg, "", record, {"train": [good]}, say) as tracker:
            keeping = keeping_of(record.path, [good], tracker, episodes=2)
            keeping.step(1, groups)
            masks_F = tuple(good.targets[0].masks_F)
            scores = {"j": 0.5, "f": 0.7, "jf": 0.6}
            result = Result(good, groups[0].episodes[0], masks_F, groups[0].rewards[0], scores)
            keeping.evaluation(1, "greedy", Evaluation((result,)))
            keeping.close()
            for step in (1, 2):
                tracker.model(record.path / "best" / "policy", step)
    run = the_run(uri, tmp_path, "play")
    traces = MlflowClient(uri).search_traces(locations=[run.info.experiment_id])
    return run, list(traces)


def test_episodes_are_traces_evaluations_tables_and_the_best_policy_a_model(
    uri: str, tmp_path: Path
) -> None:
    said: list[str] = []
    run, traces = play(uri, tmp_path, said.append)
    assert said == []
    client = MlflowClient(uri)
    assert run.info.status == "FINISHED"
    # One trace an episode, with a span a turn below its own.
    assert len(traces) == 2
    for trace in traces:
        names = [span.name for span in trace.data.spans]
        assert sorted(names) == ["episode", "turn 1", "turn 2"]
        assert trace.info.trace_metadata["mlflow.sourceRun"] == run.info.run_id
        assert trace.info.request_preview == "the red square"
    values = []
    for trace in traces:
        given = {each.name: each.value for each in trace.info.assessments}
        assert set(given) == {"reward", "advantage", "reward/format", "reward/spatial"}
        values.append(given["reward"])
    assert sorted(values) == [0.5, 1.5]
    turns = []
    for trace in traces:
        turns += [span for span in trace.data.spans if span.name == "turn 1"]
    texts = sorted(turn.outputs for turn in turns)
    assert texts[0].startswith("<think><img src=x onerror")
    assert texts[1] == "<think>it moves</think>"
    assert "Find: the red square" in turns[0].inputs

    there = "evaluation/step_1/greedy/per_expression.json"
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": there, "type": "table"}]
    table = json.loads(Path(client.download_artifacts(run.info.run_id, there)).read_text())
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert row["reward"] == 0.5
    assert row["query"] == "the red square"
    [picture] = client.list_artifacts(run.info.run_id, "episodes")
    assert picture.path.startswith("episodes/step_1_")
    assert picture.file_size > 1000

    [model] = client.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id
    assert model.tags["step"] == "2"
    assert model.tags["path"] == str(tmp_path / "play" / "best" / "policy")
    assert [each.model_id for each in run.outputs.model_outputs] == [model.model_id]
