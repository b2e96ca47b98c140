"""Mistakes of a user: one clear error with place and remedy, before any engine starts."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from configs.load import load, resolve, to_yaml
from data.frames.reading import read_frames
from data.load import load_samples
from ray_jobs import blind_baselines, evaluate, train, warm_start
from ray_jobs.driver.entry import run_job as run_in_process
from ray_jobs.driver.run import Run, checked_config, refuse_other_run
from ray_jobs.record.run_folder import RunFolder
from ray_jobs.train import check_fits
from tests.ray_jobs.conftest import EXTRA, Small, run_job, told


def _open(small: Small, *settings: str) -> str:
    """The one error of opening a job."""
    argv = ["revseg_tiny", *EXTRA, *small.settings("bad"), *settings]
    with pytest.raises(ValueError) as caught:
        cfg = checked_config(argv)
        with Run.open(cfg, splits=[cfg.data.train_split, cfg.data.test_split]):
            pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("learner.lrr=1", ["learner.lrr", "did you mean learner.lr"]),
        ("train.steps=many", ["train.steps", "many", "expected a whole number"]),
        (
            "data.root=no/such/folder",
            ["data.root=no/such/folder", "does not exist", "data.synthetic=true"],
        ),
        ("data.test_split=tset", ["tset", "no such folder", "test, train, valid"]),
        ("policy.path=no/policy", ["policy.path=no/policy", "config.json"]),
        ("system.name=revsge", ["revsge", "did you mean 'revseg'"]),
        ("system.options.num_frame=4", ["system.options.num_frame", "did you mean 'num_frames'"]),
        ("system.options.num_frames=few", ["system.options.num_frames", "few", "a whole number"]),
        ("train.resume=no/checkpoint", ["train.resume=no/checkpoint", "checkpoint folder"]),
        (
            "difficulty.folder=no/ratings",
            ["no file no/ratings/train.json", "`ray_jobs.rate_difficulty` makes it"],
        ),
        ("rollout.group_size=1", ["rollout.group_size=1", "at least 2"]),
    ],
)
def test_settings(small: Small, setting: str, parts: list[str]) -> None:
    message = _open(small, setting)
    for part in parts:
        assert part in message
    assert "Traceback" not in message
    assert len(message.splitlines()) == 1


def test_more_gpus_than_there_are(small: Small, ray_env: dict[str, str]) -> None:
    message = _open(small, "cluster.use_gpu=yes", "learner.world_size=1000")
    assert "1000 learner ranks x 1 GPU" in message
    assert "cluster.use_gpu=no" in message


@pytest.fixture
def data(small: Small, tmp_path: Path) -> Path:
    """A copy of the data, free to be broken."""
    return Path(shutil.copytree(small.data, tmp_path / "data"))


def _edit(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_meta_file_that_is_not_json(small: Small, data: Path) -> None:
    file = data / "train" / "meta_expressions.json"
    file.write_text(file.read_text()[:500])
    message = _open(small, f"data.root={data}")
    assert str(file) in message
    assert "not JSON" in message
    assert "download it again" in message


def test_mask_of_another_size(small: Small, data: Path) -> None:
    file = data / "test" / "mask_dict.json"

    def halve(masks: dict[str, list[Any]]) -> None:
        for masks_F in masks.values():
            next(rle for rle in masks_F if rle)["size"] = [56, 112]

    _edit(file, halve)
    message = _open(small, f"data.root={data}")
    assert "mask_dict.json" in message
    assert "annotation" in message
    assert "56 x 112" in message


def test_missing_video(small: Small, data: Path) -> None:
    gone = next((data / "train" / "JPEGImages").iterdir())
    shutil.rmtree(gone)
    message = _open(small, f"data.root={data}")
    assert gone.name in message
    assert "download its frames" in message


def test_video_that_stops_half_way(data: Path) -> None:
    images = next((data / "test" / "JPEGImages").iterdir())
    (data / "test" / "Videos").mkdir()
    with av.open(str(data / "test" / "Videos" / f"{images.name}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height = stream.width = 112
        stream.pix_fmt = "yuv420p"
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(
                np.full((112, 112, 3), 20 * i, np.uint8), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    shutil.rmtree(images)
    sample = next(s for s in load_samples("mevis", str(data), "test") if s.video.uid == images.name)
    assert len(read_frames(sample.video, [0, 11])) == 2
    with pytest.raises(ValueError, match="frame 23 was needed.*copy or download it again"):
        read_frames(sample.video, [0, 23])


def test_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    cfg = load(["revseg_tiny", *EXTRA])
    shutil.copytree(
        resolve(cfg.policy.path),
        tmp_path / "policy",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )

    def widen(config: dict[str, Any]) -> None:
        part = config.get("text_config", config)
        part["hidden_size"] = 2 * part["hidden_size"]

    _edit(tmp_path / "policy" / "config.json", widen)
    with pytest.raises(ValueError, match="another architecture than policy.path.*hidden_size is"):
        check_fits(cfg, tmp_path)


def test_checkpoint_beyond_the_last_step(tmp_path: Path) -> None:
    cfg = load(["revseg_tiny", *EXTRA, "train.steps=3"])
    shutil.copytree(
        resolve(cfg.policy.path),
        tmp_path / "policy",
        ignore=shutil.ignore_patterns("*.safetensors"),
    )
    (tmp_path / "state.json").write_text('{"step": 5}')
    with pytest.raises(ValueError, match="train.steps=3: .* is of step 5; give at least 5"):
        check_fits(cfg, tmp_path)


def test_a_run_folder_of_other_settings(tmp_path: Path) -> None:
    cfg = load(["revseg_tiny", "learner.lr=1e-4", "train.steps=3"])
    other = load(["revseg_tiny", "learner.lr=1e-3", "train.steps=3"])
    folder = RunFolder.open(tmp_path / "run", to_yaml(cfg))
    # Without a checkpoint there is nothing to mix.
    refuse_other_run(folder.path, other)
    (folder.checkpoints / "step_1").mkdir()
    refuse_other_run(folder.path, cfg)
    refuse_other_run(
        folder.path, load(["revseg_tiny", "name=moved", "learner.lr=1e-4", "train.steps=30"])
    )
    with pytest.raises(ValueError, match=r"learner.lr=0.0001 there, 0.001 now.*train.resume=never"):
        refuse_other_run(folder.path, other)


@pytest.mark.parametrize(
    "job", [train.train, evaluate.main, warm_start.warm_start, blind_baselines.main]
)
def test_every_job_says_it_in_one_line(
    job: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["job", "revseg_tini"])
    with pytest.raises(
        SystemExit, match="^error: revseg_tini: no such preset; did you mean revseg_tiny?"
    ):
        run_in_process(job)


def test_a_process_ends_with_the_error_and_no_traceback(small: Small) -> None:
    done = run_job("train", *small.settings("bad"), "system.name=nobody")
    assert done.returncode == 1, told(done)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: system.name='nobody' is unknown")
    assert "Traceback" not in done.stderr
