"""What the learner is told of masks, by hand; and real ranks that draw and learn from them, over the shipped SAM 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ray
import torch

from actors.drawer import DrawerPool
from actors.drawing import DrawBatch, draw_batch, mask_targets, masks_by_episode, tracking_prompts
from actors.learner import LearnerActor
from actors.learner_pool import LearnerPool
from actors.objective import grpo_loss
from actors.segmenter import SegmenterActor
from cluster.placement import place
from cluster.refs import results
from configs.schema import Config, MaskConfig
from core.drawing.requests import DrawnMask, DrawnPrompt, SampledMask
from core.masks import decode, encode
from core.types import (
    Answer,
    End,
    Episode,
    Group,
    MaskPrompt,
    Rle,
    Sample,
    SegPrompt,
    Target,
    Video,
)
from tests.models.seg_cases import SEG, case, with_seg
from tests.models.tiny_qwen import build, random_group

HEIGHT = 48
WIDTH = 64
FRAMES = 4
KEY = SegPrompt(0, 0, 1)
SEEN = SegPrompt(0, 0, 3, "video")
FINAL = SegPrompt(0, 0, 2, "final")
SEGS = (KEY, SEEN, FINAL)


def video(path: Path | str = "nowhere") -> Video:
    return Video("v", str(path), tuple(f"{f:02}" for f in range(FRAMES)), HEIGHT, WIDTH)


def truth() -> Rle:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[10:30, 20:50] = True
    return encode(mask_HW)


def sample(of: Video) -> Sample:
    """The object is in all frames but the last."""
    return Sample("v/0", of, "it", (Target("o", (truth(), truth(), truth(), None)),))


def episode(segs: Sequence[SegPrompt] = SEGS, end: End = End.DONE) -> Episode:
    return Episode("v/0", (), end, Answer(segs=tuple(segs)))


@cache
def made(number: int, prompt: DrawnPrompt | None = None) -> DrawnMask:
    return DrawnMask(truth(), SampledMask(np.full((2, 2), number % 2 == 0), -float(number)), prompt)


GROUPS = [[episode(), Episode("v/0", (), End.FAILED, error="died")], [episode((KEY,)), episode()]]
DRAWN = [((made(0), made(1), None), ()), ((made(2),), (made(3), made(4), None))]


def learned(**changes: Any) -> DrawBatch | None:
    return mask_targets(
        [sample(video())] * 2, GROUPS, DRAWN, replace(MaskConfig("[SEG]"), **changes)
    )


def test_keyframes_are_calibrated_and_every_rewarded_frame_has_its_truth() -> None:
    found = learned()
    assert found is not None
    assert [(m.episode, m.prompt) for m in found.requests] == [
        (0, KEY),
        (0, SEEN),
        (2, KEY),
        (3, KEY),
        (3, SEEN),
    ]
    assert [m.sampled and m.sampled.loglik for m in found.requests] == [0.0, None, -2.0, -3.0, None]
    assert [m.truth for m in found.requests] == [truth(), None, truth(), truth(), None]
    weights = [m.weight for m in found.requests]
    assert weights == pytest.approx(
        [0.2 / 3, 0.2 / 2, 0.2 / 3, 0.2 / 3, 0.2 / 2]
    )  # three keyframes, two others
    assert set(found.frames.values()) == {(video(), frame) for frame in (1, 2, 3)}


def test_what_is_off_is_not_learned_from() -> None:
    assert learned(calibration=0.0, loss=0.0) is None
    only_truth = learned(calibration=0.0)
    only_drawn = learned(loss=0.0)
    assert only_truth
    assert only_drawn
    assert [m.sampled for m in only_truth.requests] == [None] * 5
    assert all(m.weight for m in only_truth.requests)
    assert [m.prompt for m in only_drawn.requests] == [KEY] * 3
    assert not any(m.weight for m in only_drawn.requests)
    shown = mask_targets(
        [sample(video())] * 2, GROUPS, None, MaskConfig("[SEG]")
    )  # demonstrations: none was drawn
    assert shown is not None
    assert [m.sampled for m in shown.requests] == [None] * 5
    nothing = mask_targets([sample(video())], [[episode(())]], [((),)], MaskConfig("[SEG]"))
    assert nothing is not None
    assert nothing.requests == ()


def test_a_sample_without_a_target_is_true_nowhere() -> None:
    none = replace(sample(video()), targets=())
    found = mask_targets([none], [[episode()]], [((made(0), made(1), None),)], MaskConfig("[SEG]"))
    assert found is not None
    assert [m.truth for m in found.requests] == [None, None]
    assert all(m.weight for m in found.requests)


def test_masks_return_to_the_episodes_that_asked_for_them() -> None:
    found = {
        (0, KEY): made(0),
        (0, SEEN): made(1),
        (2, KEY): made(2),
        (3, KEY): made(3),
        (3, SEEN): made(4),
    }
    assert masks_by_episode(found, GROUPS) == DRAWN
    assert [m.prompt.role for m in draw_batch([video()] * 2, GROUPS).requests].count("final") == 2


def test_a_segmenter_follows_prompts_and_what_was_drawn_to_be_tracked() -> None:
    box = MaskPrompt(0, (1.0, 2.0, 3.0, 4.0))
    drawn = DrawnPrompt(2, np.ones((4, 4), np.float32))
    both = Episode("v/0", (), End.DONE, Answer((box,), segs=SEGS))
    assert tracking_prompts(both, (made(0), None, made(1, drawn))) == (box, drawn)
    assert tracking_prompts(both, ()) == (box,)


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
    path = tmp_path_factory.mktemp("clip")
    for name in video().frame_names:
        image = np.random.default_rng(int(name)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(path / f"{name}.png"), image.repeat(8, 0).repeat(8, 1))
    return video(path)


@pytest.fixture(scope="module")
def played() -> tuple[list[Group], list]:
    """Three groups whose turns hold [SEG], the first of them drawn on a keyframe, another frame and one to track."""
    groups = []
    tables = []
    for seed in range(3):
        group, table = random_group(seed)
        group = with_seg(group)
        episodes = tuple(replace(e, answer=Answer(segs=SEGS)) for e in group.episodes)
        groups.append(replace(group, episodes=episodes))
        tables.append(table)
    return groups, tables


@pytest.fixture(scope="module")
def pools(folder: Path, ray_env: dict[str, str]):
    cfgs = {n: config(folder, n) for n in (1, 2)}
    found = {n: LearnerPool(cfg, place(cfg), total_updates=10) for n, cfg in cfgs.items()}
    yield found
    for pool in found.values():
        pool.close()


def restart(pools: dict[int, LearnerPool], cfg: Config) -> LearnerPool:
    pool = pools[cfg.learner.world_size]
    pool.cfg = cfg
    results(
        [
            rank.call(LearnerActor.start, cfg, "cpu", place, 10)
            for rank, place in zip(pool.ranks, pool.places, strict=True)
        ]
    )
    return pool


def flat(pool: LearnerPool) -> np.ndarray:
    return np.array(ray.get(pool.publish(1).payload))


def draw(pool: LearnerPool | DrawerPool, clip: Video, played) -> list:
    groups, tables = played
    return pool.draw([clip] * len(groups), [g.episodes for g in groups], tables)


def of(clip: Video, played, drawn: list, cfg: Config) -> DrawBatch | None:
    groups, _ = played
    return mask_targets([sample(clip)] * len(groups), [g.episodes for g in groups], drawn, cfg.mask)


def test_any_ranks_draw_the_same_masks_and_learn_the_same(pools, clip, played) -> None:
    groups, tables = played
    seen = []
    norms = []
    losses = []
    folder = Path(pools[1].cfg.policy.path)
    for ranks, stage in ((1, 1), (2, 2), (2, 3)):
        cfg = config(folder, ranks, stage)
        pool = restart(pools, cfg)
        drawn = draw(pool, clip, played)
        update = pool.learn(groups, tables, of(clip, played, drawn, cfg))
        seen.append(drawn)
        norms.append(update.grad_norm)
        losses.append(update.metrics["mask_loss"])
        assert (
            update.metrics["ratio_min"] == update.metrics["ratio_max"] == 1.0
        )  # on policy, exactly
        assert update.metrics["skipped_steps"] == 0.0
        assert np.isfinite(update.loss)
    flat_masks = [[m for group in drawn for masks in group for m in masks] for drawn in seen]
    assert len(flat_masks[0]) == 3 * 4 * len(SEGS)
    assert all(m is not None for m in flat_masks[0])
    for other in flat_masks[1:]:
        for a, b in zip(flat_masks[0], other, strict=True):
            assert b.sampled.loglik == pytest.approx(a.sampled.loglik, abs=1e-5)
            assert (decode(a.rle) != decode(b.rle)).mean() < 1e-3
            assert decode(a.rle).shape == (HEIGHT, WIDTH)
            assert (a.prompt is None) == (b.prompt is None)
    assert [m.prompt is not None for m in flat_masks[0]] == [False, False, True] * 12
    assert norms[1:] == pytest.approx([norms[0]] * 2, rel=1e-4)
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-4)
    assert losses[0] > 0.1


def test_weights_of_zero_are_bit_identical_to_a_policy_that_does_not_draw(
    pools, clip, played
) -> None:
    """Three ways: no token at all; masks that are not learned from; and a head that runs, with every weight 0."""
    groups, tables = played
    folder = Path(pools[1].cfg.policy.path)
    found = []
    for token, given in (("", False), (f"w{SEG}", False), (f"w{SEG}", True)):
        cfg = config(folder, token=token, calibration=0.0, loss=0.0)
        pool = restart(pools, cfg)
        masks = None
        if given:
            masks = of(clip, played, draw(pool, clip, played), config(folder))
            assert masks is not None
            masks = DrawBatch(tuple(replace(m, weight=0.0) for m in masks.requests), masks.frames)
        for _ in range(2):
            update = pool.learn(groups, tables, masks)
        found.append((update.loss, update.grad_norm, flat(pool)))
    for loss, norm, weights in found[1:]:
        assert (loss, norm) == found[0][:2]
        assert np.array_equal(weights, found[0][2])
    cfg = config(folder)
    pool = restart(pools, cfg)
    masks = of(clip, played, draw(pool, clip, played), cfg)
    for _ in range(2):
        pool.learn(groups, tables, masks)
    assert not np.array_equal(flat(pool), found[0][2])  # with weights it is another policy


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_a_checkpoint_holds_the_head_and_goes_on_exactly(
    pools, clip, played, tmp_path, ranks, stage
) -> None:
    groups, tables = played
    cfg = config(Path(pools[1].cfg.policy.path), ranks, stage)
    pool = restart(pools, cfg)
    masks = of(clip, played, draw(pool, clip, played), cfg)
    pool.learn(groups, tables, masks)
    pool.save(tmp_path / "one")
    there = draw(pool, clip, played)
    straight = pool.learn(groups, tables, masks)
    pool.save(tmp_path / "straight")
    pool = restart(pools, cfg)
    pool.load(tmp_path / "one")
    resumed = pool.learn(groups, tables, masks)
    pool.save(tmp_path / "resumed")
    assert resumed.loss == straight.loss
    assert resumed.grad_norm == straight.grad_norm
    file = Path("policy") / "mask_head" / "model.safetensors"
    saved = {name: (tmp_path / name / file).read_bytes() for name in ("one", "straight", "resumed")}
    assert saved["straight"] == saved["resumed"] != saved["one"]
    saved_cfg = config(tmp_path / "one" / "policy")
    painters = DrawerPool(saved_cfg, place(saved_cfg))
    try:
        again = draw(painters, clip, played)
    finally:
        painters.close()
    for a, b in zip(there, again, strict=True):
        for ours, theirs in zip([m for e in a for m in e], [m for e in b for m in e], strict=True):
            assert theirs.sampled.loglik == pytest.approx(ours.sampled.loglik, abs=1e-5)


def test_segmenters_that_redraw_take_the_learners_newest_head(
    pools, clip, played, tmp_path
) -> None:
    groups, tables = played
    cfg = config(Path(pools[1].cfg.policy.path), 2, 3, loss=1.0)
    cfg.learner.lr = 1e-2
    pool = restart(pools, cfg)
    pool.save(tmp_path / "one")
    [[drawn, *_], *_] = draw(pool, clip, played)
    prompts = tracking_prompts(groups[0].episodes[0], drawn)
    assert len(prompts) == 1
    actor = SegmenterActor(
        replace(config(tmp_path / "one" / "policy"), mask=replace(cfg.mask, redraw=True)), "cpu"
    )
    [before] = actor.segment(clip, [prompts])
    actor.take_head(pool.head())
    assert actor.segment(clip, [prompts]) == [before]  # what was saved is what is drawn with
    masks = mask_targets([sample(clip)] * 3, [g.episodes for g in groups], None, cfg.mask)
    for _ in range(3):
        pool.imitate(groups, tables, masks)
    actor.take_head(pool.head())
    [after] = actor.segment(clip, [prompts])
    assert before != after
    assert any(rle is not None for rle in before)
    plain = SegmenterActor(config(tmp_path / "one" / "policy"), "cpu")
    assert plain.segment(clip, [prompts]) != [before]  # SAM 2 alone follows the mask in another way


def test_imitation_of_true_masks_lowers_their_loss(pools, clip, played) -> None:
    groups, tables = played
    cfg = config(Path(pools[1].cfg.policy.path), loss=1.0, bce=2.0, dice=0.5)
    pool = restart(pools, cfg)
    masks = mask_targets([sample(clip)] * 3, [g.episodes for g in groups], None, cfg.mask)
    before = pool.head()
    losses = [pool.imitate(groups, tables, masks).metrics["mask_loss"] for _ in range(10)]
    after = pool.head()
    assert losses[-1] < 0.8 * losses[0]
    parts = ("mlp.0.weight", "mlp.2.weight", "decoder.output_upscaling.0.weight", "no_mask")
    assert all(not np.array_equal(before[name], after[name]) for name in parts)


def test_a_token_that_is_none_and_a_head_that_is_missing_are_told(pools) -> None:
    folder = Path(pools[1].cfg.policy.path)
    with pytest.raises(
        ValueError, match=r"mask.token=w1 w2: 2 tokens .* ray_jobs.warm_start adds it"
    ):
        restart(pools, config(folder, token="w1 w2"))
    cfg = config(folder)
    cfg.mask.fresh = False
    with pytest.raises(
        ValueError, match="this policy has no mask head; make one with ray_jobs.warm_start"
    ):
        restart(pools, cfg)


def test_the_kl_term_is_about_text_alone() -> None:
    """A calibrated log-prob says how likely the drawn mask is as well; the reference has drawn none."""
    rows, _, _, _ = case()
    row = rows[0]
    text_N = torch.full((len(row.target_N),), -1.5)
    calibrated_N = (text_N - 0.3).requires_grad_()
    given = {"old_N": calibrated_N.detach(), "reference_N": text_N, "off_policy": False}
    cfg = replace(Config().grpo, kl_coef=0.1)
    loss, stats = grpo_loss(calibrated_N, text_N, row, cfg, **given, text_N=text_N)
    assert stats.ratios is not None
    assert stats.ratios.kl_sum == 0.0
    assert stats.ratios.ratio_sum == len(text_N)
    wrong, without = grpo_loss(calibrated_N, text_N, row, cfg, **given)
    assert without.ratios is not None
    assert without.ratios.kl_sum > 1.0
    assert wrong != loss


@pytest.mark.parametrize(("ranks", "stage"), [(1, 1), (2, 3)])
def test_with_lora_the_head_is_trained_whole(pools, clip, played, ranks, stage) -> None:
    groups, tables = played
    cfg = config(Path(pools[1].cfg.policy.path), ranks, stage)
    cfg.learner.lora_rank = 4
    cfg.grpo.kl_coef = 0.1
    pool = restart(pools, cfg)
    before = pool.head()
    policy = flat(pool)
    update = pool.learn(groups, tables, of(clip, played, draw(pool, clip, played), cfg))
    after = pool.head()
    assert update.metrics["kl"] == pytest.approx(0.0, abs=1e-6)
    assert update.metrics["ratio_min"] == 1.0
    assert not np.array_equal(before["mlp.2.weight"], after["mlp.2.weight"])
    assert not np.array_equal(policy, flat(pool))
