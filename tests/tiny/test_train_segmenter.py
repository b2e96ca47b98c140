"""Training of the tiny segmenter: clips, tracks, prompts, loss, and one short real run."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch

from models.segmenters import make
from models.segmenters.sam2_build import load
from tiny.segmenter_school import clips
from tiny.segmenter_school.tracks import PromptKind, Tracks, choose, random_prompts
from tiny.train_segmenter import first_model, options_from, track_loss, train


def test_clips_of_both_kinds_have_objects_that_come_and_go() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 1.0):
        areas_FO = np.concatenate(
            [clips.object_areas(clips.random_clip(rng, share)["owner_FHW"]) for _ in range(8)], 1
        )
        seen_O = (areas_FO > 0).any(0)
        assert seen_O.sum() >= 10
        assert (areas_FO[:, seen_O] == 0).any(0).sum() >= 4


@pytest.mark.parametrize("length", [1, 4, 8, 14])
def test_a_track_starts_where_its_object_is_well_visible(length: int) -> None:
    rng = np.random.default_rng(length)
    areas_FO = clips.object_areas(clips.random_clip(rng, 0.0)["owner_FHW"])
    ways = set()
    for _ in range(200):
        thing, frames = choose(rng, areas_FO, length)
        assert areas_FO[frames[0], thing] >= 50
        assert len(frames) == length
        assert frames.min() >= 0
        assert frames.max() < clips.NUM_FRAMES
        steps = np.diff(frames)
        assert len(set(np.sign(steps)) - {0}) <= 1
        ways |= set(np.sign(steps))
    assert length == 1 or {-1, 1} <= ways


def test_prompts_lie_where_they_should() -> None:
    torch.manual_seed(0)
    masks = torch.zeros(64, 40, 60, dtype=torch.bool)
    masks[:, 10:20, 30:50] = True
    box = random_prompts(masks, PromptKind(True, 3), 0.0, 120)
    corners = [[60.0, 30.0], [100.0, 60.0]]
    assert box["point_coords"][:, :2].tolist() == [corners] * 64
    to_pixels = torch.tensor([0.5, 1 / 3])
    x, y = (box["point_coords"][:, 2:] * to_pixels).unbind(-1)
    on = masks[0][y.long(), x.long()]
    assert torch.equal(on.int(), box["point_labels"][:, 2:])
    assert on[:, :2].all()
    assert 0 < (~on[:, 2]).sum() < 64
    moved = random_prompts(masks, PromptKind(True, 0), 0.1, 120)["point_coords"]
    assert (moved != box["point_coords"][:, :2]).all()
    assert moved.min() >= 0
    assert moved.max() <= 120


def test_the_loss_asks_for_masks_where_visible_and_for_absence_elsewhere() -> None:
    masks = torch.zeros(1, 3, 16, 16, dtype=torch.bool)
    masks[0, 0, 4:12, 4:12] = True
    masks[0, 2, 0, 0] = True
    frames = torch.zeros(1, 3, 16, 16, 3, dtype=torch.uint8)
    tracks = Tracks(frames, masks, counted=torch.tensor([[True, True, False]]))
    right = masks.transpose(0, 1).float() * 20 - 10
    score = torch.tensor([[9.0], [-9.0], [0.0]])
    best = track_loss(right, score, tracks)
    assert best < 0.05
    wrong_mask = right.clone()
    wrong_score = score.clone()
    ignored = score.clone()
    wrong_mask[0] = -right[0]
    wrong_score[1] = 9.0
    ignored[2] = 9.0
    assert track_loss(wrong_mask, score, tracks) > 1
    assert track_loss(right, wrong_score, tracks) > 1
    assert track_loss(right, ignored, tracks) == best


def test_a_short_run_saves_what_the_segmenter_loads(tmp_path: Path) -> None:
    args = [
        "--out",
        str(tmp_path),
        "--minutes",
        "0.04",
        "--workers",
        "1",
        "--device",
        "cpu",
        "--clips",
        "1",
    ]
    train(options_from([*args, "--pool", "32"]))
    last = json.loads((tmp_path / "training.jsonl").read_text().splitlines()[-1])
    assert last["step"] >= 1
    assert 0 <= last["scenes/box/iou"] <= 1
    assert json.loads((tmp_path / "config.json").read_text())["notes"] == last
    make("sam2", {"path": str(tmp_path)})
    again = first_model(options_from([*args, "--init", str(tmp_path)]))
    assert torch.equal(again.no_mem_embed, load(tmp_path)[0].no_mem_embed)
    assert not multiprocessing.active_children()
