"""`ray_jobs.check` on every preset, with the files and without: no Ray, no engine, no GPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from configs.load import REPOSITORY, load
from models.families.sizes import RELEASED, config_of_name
from ray_jobs import check
from tiny.world.write import write_split

FULL_SIZE = (
    "revseg_7b",
    "revseg_7b_colocated",
    "revseg_7b_multinode",
    "veason_r1_7b",
    "videoseg_o3_2b",
    "videoseg_o3_4b",
    "videoseg_r1_3b",
    "videoseg_r1_7b",
)
TINY = ("revseg_tiny", "veason_r1_tiny", "videoseg_o3_tiny", "videoseg_r1_tiny")
TINY_POLICY = REPOSITORY / "tiny/weights/videoseg_o3"


def run(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Return exit code and JSON of a check."""
    code = 0
    try:
        check.main([*argv, "--json"])
    except SystemExit as error:
        code = int(error.code or 0)
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of official shape without weights: policies, a segmenter, a small data set."""
    root = tmp_path_factory.mktemp("files")
    for name, config in RELEASED.items():
        folder = root / name
        # Real special tokens and a real tokenizer; its vocabulary is small.
        shutil.copytree(TINY_POLICY, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").touch()
        (folder / "mask_head").mkdir(exist_ok=True)
    (root / "sam2.pt").touch()
    for split in ("train", "valid", "valid_u", "test"):
        write_split(root / "data", split, seed=1, num_videos=3, expressions_per_video=2)
    return root


def with_files(preset: str, files: Path) -> list[str]:
    """Return the command line of a preset with files of official shape."""
    known = config_of_name(load([preset]).policy.path)
    assert known is not None
    return [
        preset,
        f"policy.path={files / known[0]}",
        f"segmenter.path={files / 'sam2.pt'}",
        # XMem and ratings are a checkout and a job of their own.
        "segmenter.kind=sam2",
        "difficulty.folder=",
        "data.sets=[]",
        "data.format=mevis",
        "data.train_split=train",
        "data.eval_split=valid",
        "data.test_split=test",
        "data.holdout=0",
        f"data.root={files / 'data'}",
        # A checkpoint of a 7B takes 116 GB.
        "train.steps=0",
        f"runs={files}",
    ]


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk of every machine be large: checkpoints of a 7B take 464 GB."""
    usage = shutil.disk_usage("/")
    roomy = type(usage)(10**13, 0, 10**13)
    monkeypatch.setattr("ray_jobs.driver.on_disk.shutil.disk_usage", lambda _: roomy)


@pytest.mark.parametrize("preset", FULL_SIZE)
def test_what_is_missing_is_said_at_once(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run([preset, "data.root=/nowhere", "policy.path=/nowhere/Qwen2.5-VL-7B"], capsys)
    assert code == 1
    problems = " ".join(found["problems"])
    for key in ("policy.path=", "data.root=", "segmenter.path="):
        assert key in problems
    # By the name alone: tokens, memory and placement.
    assert found["tokens"]["exact"] is False
    assert found["placement"]["whole_gpus"] <= 32
    assert found["memory_gib"]["engine"]["total"] > 15


@pytest.mark.parametrize("preset", FULL_SIZE)
def test_with_all_files_a_preset_is_fine(
    preset: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run(with_files(preset, files), capsys)
    assert found["problems"] == []
    assert code == 0
    assert found["tokens"]["exact"] is True
    assert found["tokens"]["samples"] > 0
    for gpu in found["placement"]["on"]:
        assert gpu["gib"] <= check.GPU_GIB


@pytest.mark.parametrize("preset", TINY)
def test_tiny_presets_need_nothing(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = run([preset, f"data.root={tmp_path / 'made_later'}"], capsys)
    assert code == 0, found["problems"]
    assert found["tokens"]["exact"] is True
    assert any("makes the synthetic data set" in note for note in found["notes"])
    assert any("on CPU" in note for note in found["notes"])


def test_text_names_tokens_memory_and_every_gpu(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check.main(with_files("revseg_7b", files))
    text = capsys.readouterr().out
    assert "missing or impossible\n  nothing" in text
    assert "turn 2" in text
    assert "ZeRO-3 of 4" in text
    assert "node 0 GPU 7" in text


def test_an_episode_that_cannot_fit(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["rollout.max_model_len=4096", "learner.row_tokens=4096"]
    code, found = run([*with_files("revseg_7b", files), *settings], capsys)
    assert code == 1
    first, second = found["problems"]
    assert "rollout.max_model_len=4096: an episode has up to" in first
    assert "learner.row_tokens=4096: a single episode" in second


def test_gpus_that_can_never_be_placed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run([*with_files("revseg_7b", files), "rollout.workers=4", "--nodes=8"], capsys)
    assert code == 1
    [problem] = found["problems"]
    assert "= 8.5 GPUs, 9 whole ones" in problem
    assert "set rollout.workers=3" in problem
    # Four of the engines fit on two such nodes.
    assert run([*with_files("revseg_7b", files), "rollout.workers=4"], capsys)[0] == 0


def test_a_gpu_that_is_too_small(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run([*with_files("revseg_7b", files), "--gib=24"], capsys)
    assert code == 1
    problems = " ".join(found["problems"])
    assert "memory: learner rank need" in problems
    assert "of 24 on a GPU" in problems
    small = [*with_files("revseg_7b", files), "rollout.gpu_memory_utilization=0.2"]
    [problem] = run(small, capsys)[1]["problems"]
    assert "an engine lacks" in problem


def test_an_evaluation_asks_for_no_learner(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*with_files("videoseg_o3_2b", files), "--job=evaluate", "--nodes=1"]
    code, found = run([*words, "rollout.gpu_memory_utilization=0.5"], capsys)
    assert code == 0, found["problems"]
    assert "learner rank" not in found["memory_gib"]
    assert found["placement"]["whole_gpus"] == 1
    assert any("1 of rollout.workers=3 engines" in note for note in found["notes"])


def test_files_that_a_folder_lacks(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Qwen3-VL-2B"
    shutil.copytree(files / "Qwen3-VL-2B", folder)
    for name in ("tokenizer.json", "processor_config.json", "model.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "mask_head")
    words = [*with_files("videoseg_o3_2b", files), f"policy.path={folder}", "data.keep_file=/no"]
    code, found = run([*words, "data.test_split=absent", "difficulty.folder=/no"], capsys)
    assert code == 1
    problems = " ".join(found["problems"])
    for piece in (
        "no tokenizer.json",
        "no preprocessor_config.json",
        "weights are missing: model.safetensors",
        "no folder mask_head",
        "data.keep_file=/no: no such file",
        "split absent",
        "difficulty.folder",
    ):
        assert piece in problems


def test_wrong_options_are_named() -> None:
    for word in ("--jobs=train", "--job=play", "--nodes=a", "--gib=0"):
        with pytest.raises(ValueError, match=word):
            check.parse(["revseg_7b", word])


def test_help_prints_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        check.main(["--help"])
    assert not end.value.code
    assert "--skip-data" in capsys.readouterr().out
