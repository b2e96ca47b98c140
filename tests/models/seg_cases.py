"""Random groups with [SEG] in their turns, frames and truths for their masks."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base

from core import batch, grpo
from core.batch import GroupBatch
from core.digest import image_digest
from core.drawing.requests import DrawRequest
from core.masks import encode
from core.types import Group, MediaTable, SegPrompt
from models.policy.mask_head import FrameFeatures, MaskHead
from models.policy.policy import Policy
from models.policy.seg_policy import SegOptions, SegPolicy
from models.segmenters import sam2_build
from models.segmenters.sam2_shape import TINY
from tests.models.tiny_qwen import ALLOWED, ID, random_group

SEG = 150  # a word that the random groups' turns get
LAYOUT = batch.ImageLayout(ID["<|image_pad|>"], 28)


def sam(version: str = TINY.version) -> SAM2Base:
    """A small random SAM 2; the object score is high, or nothing would be tracked."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = sam2_build.build(replace(TINY, version=version))
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    return model


def head(model: SAM2Base, width: int = 64, seed: int = 5) -> MaskHead:
    """A head with logits beyond 0.5 both ways that depend on the token.

    Equal masks prove little.
    """
    torch.manual_seed(seed)
    made = MaskHead(model, width)
    made.mlp[2].weight.data *= 10
    for layers in made.decoder.output_hypernetworks_mlps:
        layers.layers[-1].weight.data *= 15
    return made


def seg_policy(folder: Path, options: SegOptions | None = None) -> SegPolicy:
    model = sam()
    policy = Policy(folder, allowed_ids=ALLOWED, attention="split")
    return SegPolicy(policy, head(model), FrameFeatures(model, TINY), SEG, options)


@cache
def frames() -> MediaTable:
    """Three frames of different sizes, by digest."""
    found = {}
    for i, (height, width) in enumerate(((60, 90), (40, 120), (64, 64))):
        rng = np.random.default_rng(i)
        small = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        image = small.repeat(4, 0).repeat(4, 1)
        found[image_digest(image)] = image
    return found


def with_seg(group: Group) -> Group:
    """[SEG] as the first token of first turns and the last of others: both ends of a branch."""
    episodes = []
    for episode in group.episodes:
        turns = []
        for t, turn in enumerate(episode.turns):
            ids = list(turn.completion_ids)
            ids[0 if t == 0 else -1] = SEG
            turns.append(replace(turn, completion_ids=tuple(ids)))
        episodes.append(replace(episode, turns=tuple(turns)))
    return replace(group, episodes=tuple(episodes))


def asked_of(group: Group, first: int = 0) -> list[DrawRequest]:
    """On each [SEG] a keyframe and a second frame.

    Truths are boxes, and every third frame has none.
    """
    found = []
    for e, episode in enumerate(group.episodes, first):
        for t, turn in enumerate(episode.turns):
            position = 0 if t == 0 else len(turn.completion_ids) - 1
            for k, role in enumerate(("keyframe", "video")):
                number = (e + t + k) % 3
                name = list(frames())[number]
                truth_HW = np.zeros(frames()[name].shape[:2], bool)
                truth_HW[10:30, 15 + e : 40] = True
                truth = None if number == 2 else encode(truth_HW)
                found.append(
                    DrawRequest(e, SegPrompt(t, position, number, role), name, truth=truth)
                )
    return found


def case(
    seeds=(0,), budget=10**6, **kwargs
) -> tuple[list[GroupBatch], MediaTable, list[Group], list[DrawRequest]]:
    """Rows, shown images, groups and masks."""
    forest = []
    media: dict[str, Any] = {}
    groups = []
    asked = []
    first = 0
    for i, seed in enumerate(seeds):
        group, table = random_group(seed, **kwargs)
        group = with_seg(group)
        credit = grpo.credit(group, per_turn=False, std=True, eps=1e-6)
        forest += batch.trees(group, i, credit, [1.0] * len(group.episodes), first)
        asked += asked_of(group, first)
        first += len(group.episodes)
        media |= table
        groups.append(group)
    [rows] = batch.deal(forest, 1, budget)
    return [batch.build_row(row, LAYOUT) for row in rows], media, groups, asked
