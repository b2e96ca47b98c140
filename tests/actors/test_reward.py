"""Reward actors for real: rewards of the system itself, FAILED episodes, hung and dead actors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import ray
import torch

import systems
from actors.reward import RewardActor, RewardPool, as_scored
from actors.segmenter import load_segmenter, masks_on_all_frames
from actors.splits import read_split
from cluster.placement import place
from cluster.refs import Handle
from configs.schema import Config, DifficultyConfig, SystemConfig
from core.difficulty import difficulty
from core.masks import box, decode
from core.types import Answer, End, Episode, MaskPrompt, Media, Reward, Turn, View
from data.frames.reading import read_frames
from data.load import load_samples
from rewards.iou import mask_iou_table
from rewards.objects import matched_mean
from tiny.world.write import write_split

OPTIONS = {
    "frame_height": 84,
    "frame_width": 84,
    "keyframe_height": 112,
    "keyframe_width": 112,
    "prompt": "short",
}


def played(sample, box):
    """A finished two-round episode that chose sampled frame 3."""
    turn = Turn((1,), (2,), (-0.1,), "", (), True, 0)
    facts = {"frame_idx": 3, "description": "x", "box": box}
    facts |= dict.fromkeys(("tags_1", "json_1", "tags_2", "json_2"), True)
    return Episode(sample.uid, (turn, turn), End.DONE, Answer((), facts, keyframe=5))


@pytest.fixture(scope="module")
def setting(ray_env, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_split(root, "train", seed=3, num_videos=3, expressions_per_video=2)
    cfg = Config()
    cfg.data.root = str(root)
    cfg.cluster.use_gpu = "no"
    cfg.system.options = OPTIONS
    pool = RewardPool(cfg, place(cfg), ["train"])
    yield cfg, pool, load_samples("mevis", str(root), "train")
    pool.close()


def test_only_the_training_split_must_be_rated(setting, tmp_path):
    cfg, _, samples = setting
    cfg = replace(cfg, difficulty=DifficultyConfig(folder=str(tmp_path)))
    with pytest.raises(
        ValueError, match=r"no file .*train\.json; `ray_jobs.rate_difficulty` makes it"
    ):
        read_split(cfg, "train")
    as_test = replace(cfg, data=replace(cfg.data, train_split="other", test_split="train"))
    assert read_split(as_test, "train") == samples
    rated = {}
    for sample in samples:
        rated[sample.uid] = {"query": sample.query, "ratings": {"motion_complexity": 8}}
    (tmp_path / "train.json").write_text(json.dumps({"samples": rated}))
    for one in (cfg, as_test):
        found = read_split(one, "train")
        assert len(found) == len(samples)
        for sample in found:
            assert difficulty(sample.notes.ratings or {}) == 6.0


def test_prompts_and_log_probs_stay_away_from_reward_actors():
    media = (Media("d", View(7, 28, 28)),)
    first = Turn((1, 2), (3, 4), (-0.1, -0.2), "said", media, True, 5)
    frozen = Turn((6,), (7,), (-0.3,), "aside", (), False, 0, trainable=False)
    answer = Answer((MaskPrompt(3, (1.0, 2.0, 3.0, 4.0)),), {"x": 1}, keyframe=3)
    episodes = (
        Episode("v/1", (first, frozen), End.DONE, answer, seconds=2.0),
        Episode("v/1", (), End.FAILED, error="boom"),
    )
    scored, failed = as_scored(episodes)
    for turn, whole in zip(scored.turns, (first, frozen), strict=True):
        assert turn.prompt_ids == ()
        assert turn.logprobs == ()
        assert replace(turn, prompt_ids=whole.prompt_ids, logprobs=whole.logprobs) == whole
    assert replace(scored, turns=(first, frozen)) == episodes[0]
    assert failed == episodes[1]
    assert episodes[0].turns[0].prompt_ids == (1, 2), "the learner needs them still"


def test_rewards_are_the_systems_own(setting):
    _cfg, pool, samples = setting
    system = systems.make("revseg", OPTIONS)
    scorings = []
    for sample in samples:
        episodes = (played(sample, [10, 10, 60, 60]), played(sample, [0, 0, 112, 112]))
        scorings.append((sample, episodes, pool.submit("train", sample.uid, episodes)))
    for sample, episodes, scoring in scorings:
        assert pool.collect(scoring) == tuple(system.score(sample, episodes))


def test_the_actors_change_over_to_another_data_set(setting, tmp_path):
    cfg, pool, samples = setting
    write_split(tmp_path, "test", seed=4, num_videos=1, expressions_per_video=2)
    other = replace(cfg, data=replace(cfg.data, root=str(tmp_path)))
    [sample, _] = load_samples("mevis", str(tmp_path), "test")
    episodes = (played(sample, [10, 10, 60, 60]),)
    try:
        pool.read(other, ["test"])
        found = pool.collect(pool.submit("test", sample.uid, episodes))
        assert found == tuple(systems.make("revseg", OPTIONS).score(sample, episodes))
    finally:
        pool.read(cfg, ["train"])
    episodes = (played(samples[0], [10, 10, 60, 60]),)
    assert pool.collect(pool.submit("train", samples[0].uid, episodes))


def test_a_failed_episode_gets_none_and_changes_nothing(setting):
    _, pool, samples = setting
    good = played(samples[0], [10, 10, 60, 60])
    failed = Episode(samples[0].uid, (), End.FAILED, error="boom")
    alone = pool.collect(pool.submit("train", samples[0].uid, (good,)))
    mixed = pool.collect(pool.submit("train", samples[0].uid, (failed, good)))
    assert mixed == (None, *alone)
    assert pool.collect(pool.submit("train", samples[0].uid, (failed,))) == (None,)


def boxes(sample, frame, grow):
    """Return an answer with the true boxes of a frame, wider by `grow` pixels on each side."""
    objects = []
    for target in sample.targets:
        rle = target.masks_F[frame]
        if rle is not None:
            x0, y0, x1, y1 = box(rle)
            sides = [x0 - grow, y0 - grow, x1 - 1 + grow, y1 - 1 + grow]
            objects.append({"bbox_2d": [min(max(side, 0), 111) for side in sides]})
    return f"<answer>{json.dumps(objects)}</answer>"


class Says:
    """A policy with one answer."""

    version = 0

    def __init__(self, text):
        self.text = text

    async def __call__(self, content, *, max_tokens, trainable=True):
        return Turn((1,), (2,), (-0.1,), self.text, (), True, 0)

    def count(self, text):
        return len(text)


class PaidForTracks:
    """A system with a reward on tracked masks: the number of frames with one."""

    masks_by = "tracker"

    def score(self, sample, episodes, masks):
        self.masks = masks
        counts = [sum(mask is not None for mask in masks_F) for masks_F in masks]
        return [Reward(float(count), {}) for count in counts]


def test_tracked_masks_are_those_of_the_segmenter_actor(setting):
    cfg, _, samples = setting
    sample = samples[0]
    masks_F = sample.targets[0].masks_F
    frame = next(number for number, rle in enumerate(masks_F) if rle is not None)
    prompt = MaskPrompt(frame, box(masks_F[frame]))
    prompts = [(prompt,), (), (prompt, replace(prompt, frame=0))]
    episodes = [Episode(sample.uid, (), End.DONE, Answer(each)) for each in prompts]
    failed = Episode(sample.uid, (), End.FAILED, error="boom")

    actor = RewardActor(cfg, "cpu", ["train"])
    system = PaidForTracks()
    actor.system = cast(Any, system)
    rewards = actor.score("train", sample.uid, [episodes[0], failed, *episodes[1:]])
    wanted = masks_on_all_frames(load_segmenter(cfg, "cpu"), sample.video, prompts)

    assert rewards[1] is None
    assert rewards[0] is not None
    assert rewards[0].total > 0
    assert rewards[2] is not None
    assert rewards[2].total == 0
    for masks_F, rles_F in zip(system.masks, wanted, strict=True):
        assert len(masks_F) == sample.video.num_frames
        for mask_HW, rle in zip(masks_F, rles_F, strict=True):
            assert (mask_HW is None) == (rle is None)
            assert rle is None or np.array_equal(mask_HW, decode(rle))


def test_masks_of_the_segmenter_are_made_only_for_a_reward_that_needs_them(setting):
    """The actor's class itself, with the shipped segmenter. Its masks decide on the reward."""
    cfg, _, samples = setting
    options = {
        "target_height": 112,
        "target_width": 112,
        "negative_limit": 6.0,
        "answer": "box",
        "think": False,
    }
    # No distance is below 0, so only the IoU is left of the accuracy.
    options["box_l1_threshold"] = 0.0
    actors = {}
    for source in ("box", "mask"):
        system = SystemConfig("videoseg_r1", options | {"iou_source": source})
        actors[source] = RewardActor(replace(cfg, system=system), "cpu", ["train"])
    segmenter = load_segmenter(cfg, "cpu")
    differing = 0
    for sample in samples:
        shown = actors["mask"].system.shown(sample, np.random.default_rng(0))
        assert shown.hints is not None
        frame = shown.hints.target_frame
        group = []
        for grow in (0, 14, 14):
            says = cast(Any, Says(boxes(sample, frame, grow)))
            group.append(asyncio.run(actors["mask"].system.play(shown, says)))
        failed = Episode(sample.uid, (), End.FAILED, error="boom")
        episodes = (*group[:2], failed, group[2])
        accuracies = {}
        for source, actor in actors.items():
            rewards = actor.score("train", sample.uid, episodes)
            accuracies[source] = [reward and reward.parts["accuracy"] for reward in rewards]
        by_box = accuracies["box"]
        by_mask = accuracies["mask"]

        # The same by hand.
        pixels = read_frames(sample.video, [frame])[0]
        visible = [target.masks_F[frame] for target in sample.targets if target.masks_F[frame]]
        truth = torch.tensor(np.array([decode(rle) for rle in visible]))
        hits = []
        # `rewards` are those by masks, which come with them for the replay page.
        of_group = [reward for reward in rewards if reward is not None]
        for episode, reward in zip(group, of_group, strict=True):
            prompts = episode.answer.prompts
            masks = segmenter.image_masks([pixels] * len(prompts), prompts)
            assert [each for each, _ in reward.masks] == [frame] * len(prompts)
            assert np.array_equal([decode(rle) for _, rle in reward.masks], list(masks))
            is_hit = (mask_iou_table(list(masks), truth) > 0.5).double()
            hits.append(matched_mean(is_hit, [len(prompts)]).item())
        assert by_mask == [*hits[:2], None, hits[2]]
        assert by_box[2] is None
        differing += by_mask != by_box
    assert differing, "masks and boxes never disagreed: proves little"
    assert "segmenter" in vars(actors["mask"])
    assert "segmenter" not in vars(actors["box"])


def pid_of(worker: Handle[RewardActor]) -> int:
    """Return the process of an actor, once it is up."""
    return ray.get(worker.actor.__ray_call__.remote(lambda actor: os.getpid()))


@pytest.mark.parametrize("signal_number", [signal.SIGSTOP, signal.SIGKILL], ids=["hung", "dead"])
def test_a_hung_or_dead_actor_costs_one_retry(setting, signal_number, monkeypatch):
    _, pool, samples = setting
    uid = samples[0].uid
    episodes = (played(samples[0], [10, 10, 60, 60]),)
    before = pool.collect(pool.submit("train", uid, episodes))
    [worker] = pool.workers.values()
    os.kill(pid_of(worker), signal_number)
    scoring = pool.submit("train", uid, episodes)

    # The first wait is short, so that the hang shows. The retry has the ordinary time-out, as
    # the new actor must start up.
    hand_out = pool.hand_out

    def hand_out_patiently(task, attempt=1):
        pool.timeout_s = 300.0
        return hand_out(task, attempt)

    monkeypatch.setattr(pool, "hand_out", hand_out_patiently)
    pool.timeout_s = 2.0
    assert pool.collect(scoring) == before
    assert worker not in pool.workers.values()


def test_a_reward_that_never_arrives_is_an_error(setting, monkeypatch):
    _, pool, samples = setting
    hand_out = pool.hand_out
    stopped = []

    def hand_out_to_a_stopped_actor(task, attempt=1):
        """Every actor hangs before it can answer."""
        [worker] = pool.workers.values()
        stopped.append(pid_of(worker))
        os.kill(stopped[-1], signal.SIGSTOP)
        return hand_out(task, attempt)

    monkeypatch.setattr(pool, "hand_out", hand_out_to_a_stopped_actor)
    monkeypatch.setattr(pool, "timeout_s", 0.5)
    monkeypatch.setattr(pool, "attempts", 2)
    episodes = (played(samples[0], [10, 10, 60, 60]),)
    try:
        with pytest.raises(RuntimeError, match=r"not arrive, from 2 actors .*timeout_s=0.5 s each"):
            pool.collect(pool.submit("train", samples[0].uid, episodes))
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert len(stopped) == 2
