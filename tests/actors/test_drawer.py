"""Real ranks that draw masks and learn from them, over the shipped SAM 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from actors.drawer import DrawerPool
from actors.drawing import DrawBatch, Drawn, mask_targets, tracking_prompts
from actors.learner_pool import LearnerPool
from actors.segmenter import SegmenterActor, masks_on_all_frames
from cluster.placement import place
from configs.schema import Config, MaskConfig
from core.drawing.requests import DrawnMask
from core.masks import decode
from core.types import Answer, Group, MediaTable, Video
from tests.actors.drawing_cases import HEIGHT, SEGS, WIDTH, sample, video
from tests.actors.learners import flat_of, restart
from tests.models.seg_cases import SEG, with_seg
from tests.models.tiny_qwen import build, random_group

Pools = dict[int, LearnerPool]
Played = tuple[list[Group], list[MediaTable]]


def config(
    folder: Path, ranks: int = 1, stage: Any = 1, token: str = f"w{SEG}", **mask: Any
) -> Config:
    cfg = Config()
    cfg.policy.path = str(folder)
    cfg.cluster.use_gpu = "no"
    cfg.learner.world_size = ranks
    cfg.learner.zero_stage = stage
    cfg.learner.row_tokens = 200
    cfg.learner.lr = 1e-3
    cfg.mask = MaskConfig(token, fresh=True, **mask)
    return cfg


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("drawing") / "policy")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Video:
    """A video of coarse noise."""
    path = tmp_path_factory.mktemp("clip")
    for name in video().frame_names:
        noise = np.random.default_rng(int(name)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(path / f"{name}.png"), noise.repeat(8, 0).repeat(8, 1))
    return video(path)


@pytest.fixture(scope="module")
def played() -> Played:
    """Three groups with [SEG] in their turns. Each episode asks for a mask of every role."""
    groups: list[Group] = []
    tables: list[MediaTable] = []
    for seed in range(3):
        group, table = random_group(seed)
        group = with_seg(group)
        answer = Answer(segs=SEGS)
        episodes = [replace(episode, answer=answer) for episode in group.episodes]
        groups.append(replace(group, episodes=tuple(episodes)))
        tables.append(table)
    return groups, tables


@pytest.fixture
def pools(learner_pools: Pools) -> Pools:
    """The pools of one rank and of two. Each test starts them with its own policy."""
    return learner_pools


def flat_weights(pool: LearnerPool) -> np.ndarray:
    return flat_of(pool.publish(1))


def draw(pool: LearnerPool | DrawerPool, clip: Video, played: Played) -> list[Drawn]:
    groups, tables = played
    episodes = [group.episodes for group in groups]
    return pool.draw([clip] * len(groups), episodes, sources=tables)


def flat_masks(drawn: Sequence[Drawn]) -> list[DrawnMask]:
    """Return the masks of all episodes in one list. All must have been drawn."""
    found: list[DrawnMask] = []
    for group in drawn:
        for masks in group:
            for mask in masks:
                assert mask is not None
                found.append(mask)
    return found


def targets(
    clip: Video, played: Played, drawn: Sequence[Drawn] | None, cfg: Config
) -> DrawBatch | None:
    groups, _ = played
    samples = [sample(clip)] * len(groups)
    episodes = [group.episodes for group in groups]
    return mask_targets(samples, episodes, drawn, cfg.mask)


def test_any_ranks_draw_the_same_masks_and_learn_the_same(
    pools: Pools, folder: Path, clip: Video, played: Played
) -> None:
    groups, tables = played
    all_masks: list[list[DrawnMask]] = []
    norms: list[float] = []
    losses: list[float] = []
    for ranks, stage in ((1, 1), (2, 2), (2, 3)):
        cfg = config(folder, ranks, stage)
        pool = restart(pools, cfg)
        drawn = draw(pool, clip, played)
        update = pool.learn(groups, tables, targets(clip, played, drawn, cfg))
        all_masks.append(flat_masks(drawn))
        norms.append(update.grad_norm)
        losses.append(update.metrics["mask_loss"])
        # On policy, exactly.
        assert update.metrics["ratio_min"] == update.metrics["ratio_max"] == 1.0
        assert update.metrics["skipped_steps"] == 0.0
        assert np.isfinite(update.loss)

    first, *others = all_masks
    assert len(first) == 3 * 4 * len(SEGS)
    assert [mask.prompt is not None for mask in first] == [False, False, True] * 12
    for other in others:
        for a, b in zip(first, other, strict=True):
            assert b.sampled.loglik == pytest.approx(a.sampled.loglik, abs=1e-5)
            assert (decode(a.rle) != decode(b.rle)).mean() < 1e-3
            assert decode(a.rle).shape == (HEIGHT, WIDTH)
            assert (a.prompt is None) == (b.prompt is None)
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-4)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-4)
    assert losses[0] > 0.1


def test_weights_of_zero_are_bit_identical_to_a_policy_that_does_not_draw(
    pools: Pools, folder: Path, clip: Video, played: Played
) -> None:
    """Three ways: no token, masks without targets, and a head that runs with every weight 0."""
    groups, tables = played
    found = []
    for token, with_targets in (("", False), (f"w{SEG}", False), (f"w{SEG}", True)):
        cfg = config(folder, token=token, calibration=0.0, loss=0.0)
        pool = restart(pools, cfg)
        masks = None
        if with_targets:
            masks = targets(clip, played, draw(pool, clip, played), config(folder))
            assert masks is not None
            weightless = [replace(request, weight=0.0) for request in masks.requests]
            masks = DrawBatch(tuple(weightless), masks.frames)
        for _ in range(2):
            update = pool.learn(groups, tables, masks)
        found.append((update.loss, update.grad_norm, flat_weights(pool)))

    first_loss, first_norm, first_weights = found[0]
    for loss, norm, weights in found[1:]:
        assert loss == first_loss
        assert norm == first_norm
        assert np.array_equal(weights, first_weights)

    # With weights above 0 the policy becomes another one.
    cfg = config(folder)
    pool = restart(pools, cfg)
    masks = targets(clip, played, draw(pool, clip, played), cfg)
    for _ in range(2):
        pool.learn(groups, tables, masks)
    assert not np.array_equal(flat_weights(pool), first_weights)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_a_checkpoint_holds_the_head_and_goes_on_exactly(
    pools: Pools,
    folder: Path,
    clip: Video,
    played: Played,
    tmp_path: Path,
    ranks: int,
    stage: int,
) -> None:
    groups, tables = played
    cfg = config(folder, ranks, stage)
    pool = restart(pools, cfg)
    masks = targets(clip, played, draw(pool, clip, played), cfg)
    pool.learn(groups, tables, masks)
    pool.save(tmp_path / "one")
    drawn_by_learner = draw(pool, clip, played)
    straight = pool.learn(groups, tables, masks)
    pool.save(tmp_path / "straight")

    pool = restart(pools, cfg)
    pool.load(tmp_path / "one")
    resumed = pool.learn(groups, tables, masks)
    pool.save(tmp_path / "resumed")
    assert resumed.loss == straight.loss
    assert resumed.grad_norm == straight.grad_norm

    saved: dict[str, bytes] = {}
    for name in ("one", "straight", "resumed"):
        file = tmp_path / name / "policy" / "mask_head" / "model.safetensors"
        saved[name] = file.read_bytes()
    assert saved["straight"] == saved["resumed"]
    assert saved["straight"] != saved["one"]

    # A job without a learner draws the same.
    saved_cfg = config(tmp_path / "one" / "policy")
    drawers = DrawerPool(saved_cfg, place(saved_cfg))
    try:
        drawn_by_drawer = draw(drawers, clip, played)
    finally:
        drawers.close()
    pairs = zip(flat_masks(drawn_by_learner), flat_masks(drawn_by_drawer), strict=True)
    for ours, theirs in pairs:
        assert theirs.sampled.loglik == pytest.approx(ours.sampled.loglik, abs=1e-5)


def test_segmenters_that_redraw_take_the_learners_newest_head(
    pools: Pools, folder: Path, clip: Video, played: Played, tmp_path: Path
) -> None:
    groups, tables = played
    cfg = config(folder, 2, 3, loss=1.0)
    cfg.learner.lr = 1e-2
    pool = restart(pools, cfg)
    pool.save(tmp_path / "one")
    [[drawn, *_], *_] = draw(pool, clip, played)
    prompts = tracking_prompts(groups[0].episodes[0], drawn)
    assert len(prompts) == 1

    saved_cfg = config(tmp_path / "one" / "policy")
    redrawing_cfg = replace(saved_cfg, mask=replace(cfg.mask, redraw=True))
    actor = SegmenterActor(redrawing_cfg, "cpu")
    [before] = masks_on_all_frames(actor.segmenter, clip, [prompts])
    # The saved head is the learner's own.
    actor.take_head(pool.head())
    assert masks_on_all_frames(actor.segmenter, clip, [prompts]) == [before]

    masks = targets(clip, played, None, cfg)
    for _ in range(3):
        pool.imitate(groups, tables, masks)
    actor.take_head(pool.head())
    [after] = masks_on_all_frames(actor.segmenter, clip, [prompts])
    assert before != after
    assert any(rle is not None for rle in before)

    # SAM 2 alone tracks the mask in another way.
    plain = SegmenterActor(saved_cfg, "cpu")
    assert masks_on_all_frames(plain.segmenter, clip, [prompts]) != [before]


def test_imitation_of_true_masks_lowers_their_loss(
    pools: Pools, folder: Path, clip: Video, played: Played
) -> None:
    groups, tables = played
    cfg = config(folder, loss=1.0, bce=2.0, dice=0.5)
    pool = restart(pools, cfg)
    masks = targets(clip, played, None, cfg)
    before = pool.head()
    losses = [pool.imitate(groups, tables, masks).metrics["mask_loss"] for _ in range(10)]
    after = pool.head()
    assert losses[-1] < 0.8 * losses[0]
    parts = ("mlp.0.weight", "mlp.2.weight", "decoder.output_upscaling.0.weight", "no_mask")
    for name in parts:
        assert not np.array_equal(before[name], after[name])


def test_a_token_of_several_ids_and_a_missing_head_are_refused(pools: Pools, folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"mask.token=w1 w2: 2 tokens .* ray_jobs.warm_start adds it"
    ):
        restart(pools, config(folder, token="w1 w2"))
    cfg = config(folder)
    cfg.mask.fresh = False
    with pytest.raises(
        ValueError, match="this policy has no mask head; give .* made by ray_jobs.warm_start"
    ):
        restart(pools, cfg)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_with_lora_the_head_is_trained_whole(
    pools: Pools, folder: Path, clip: Video, played: Played, ranks: int, stage: int
) -> None:
    groups, tables = played
    cfg = config(folder, ranks, stage)
    cfg.learner.lora_rank = 4
    cfg.grpo.kl_coef = 0.1
    pool = restart(pools, cfg)
    head_before = pool.head()
    policy_before = flat_weights(pool)
    masks = targets(clip, played, draw(pool, clip, played), cfg)
    update = pool.learn(groups, tables, masks)
    assert update.metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    assert update.metrics["ratio_min"] == 1.0
    assert not np.array_equal(head_before["mlp.2.weight"], pool.head()["mlp.2.weight"])
    assert not np.array_equal(policy_before, flat_weights(pool))
