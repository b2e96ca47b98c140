"""Rollout actors on a real Ray with real engines: groups, failures, deaths, new weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import ray

from actors import rollout
from actors.rollout import Played, RolloutActor, RolloutPool
from cluster.placement import place
from cluster.refs import results
from cluster.weights import publish
from configs.schema import Config, SystemConfig
from core.digest import image_digest
from core.masks import encode
from core.types import End, Notes, Sample, Target, Video
from tests.models import tiny_engine

G = 4


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Twelve sentences about three videos of noise."""
    out = []
    rng = np.random.default_rng(0)
    for v in range(3):
        folder = tmp_path_factory.mktemp(f"video{v}")
        names = tuple(f"{i:05d}" for i in range(6))
        for name in names:
            cv2.imwrite(
                str(folder / f"{name}.jpg"), rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)
            )
        video = Video(f"v{v}", str(folder), names, 56, 56)
        target = Target("o", tuple([None] * 6))
        out += [
            Sample(f"v{v}/{i}", video, f"shape number {i}", (target,), notes=Notes(thought="x"))
            for i in range(4)
        ]
    return out


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    cfg = Config(seed=5)
    cfg.policy.path = str(tiny_engine.build(tmp_path_factory.mktemp("policy")))
    cfg.cluster.use_gpu = "no"
    cfg.system.options = {
        "num_frames": 4,
        "frame_height": 28,
        "frame_width": 28,
        "keyframe_height": 56,
        "keyframe_width": 56,
        "max_tokens_1": 120,
        "max_tokens_2": 20,
        "prompt": "short",
    }
    cfg.rollout.max_num_seqs = 16
    cfg.rollout.kv_cache_bytes = 64 << 20
    return cfg


@pytest.fixture(scope="module")
def pool(config: Config, ray_env: dict[str, str]) -> Iterator[RolloutPool]:
    pool = RolloutPool(config, place(config))
    pool.ready()
    yield pool
    pool.close()


def tokens(played: list[Played]) -> dict[str, list[tuple[int, ...]]]:
    return {p.sample.uid: [t.completion_ids for e in p.episodes for t in e.turns] for p in played}


def test_groups_come_with_their_pixels_and_repeat(pool: RolloutPool, samples: list[Sample]) -> None:
    played = list(pool.play(samples[:3], group_size=G, temperature=1.0, step=0))
    assert sorted(p.index for p in played) == [0, 1, 2]
    for group in played:
        assert group.sample is samples[group.index]
        assert len(group.episodes) == G
        media = ray.get(group.media_ref)
        shown = {m.digest for e in group.episodes for t in e.turns for m in t.media}
        assert shown == set(media)
        assert all(image_digest(pixels) == name for name, pixels in media.items())
        assert all(e.end in (End.DONE, End.UNREADABLE, End.TRUNCATED) for e in group.episodes)
        assert len({e.turns[0].prompt_ids for e in group.episodes}) == 1
        assert len({e.turns[0].completion_ids for e in group.episodes}) > 1
    again = list(pool.play(samples[:3], group_size=G, temperature=1.0, step=0))
    other = list(pool.play(samples[:3], group_size=G, temperature=1.0, step=1))
    assert tokens(played) == tokens(again) != tokens(other)
    greedy = [
        tokens(list(pool.play(samples[:1], group_size=1, temperature=0.0, step=s))) for s in (0, 1)
    ]
    assert greedy[0] == greedy[1]


def test_an_error_inside_an_episode_stays_there(pool: RolloutPool, samples: list[Sample]) -> None:
    lost = replace(samples[1], video=replace(samples[1].video, path="/nowhere/video"))
    played = {
        p.index: p for p in pool.play([samples[0], lost], group_size=2, temperature=1.0, step=0)
    }
    assert all(
        e.end is End.FAILED and "/nowhere/video" in e.error and not e.turns
        for e in played[1].episodes
    )
    assert all(e.end is not End.FAILED for e in played[0].episodes)


def test_new_weights_reach_the_engine(pool: RolloutPool, samples: list[Sample]) -> None:
    before = list(pool.play(samples[:1], group_size=G, temperature=1.0, step=0))
    pool.take(publish(1, tiny_engine.model(tiny_engine.tokenizer(), seed=1).state_dict()))
    after = list(pool.play(samples[:1], group_size=G, temperature=1.0, step=0))
    assert {t.version for p in before for e in p.episodes for t in e.turns} == {0}
    assert {t.version for p in after for e in p.episodes for t in e.turns} == {1}
    assert tokens(before) != tokens(after)


def test_damaged_weights_are_an_error(pool: RolloutPool) -> None:
    weights = publish(2, tiny_engine.model(tiny_engine.tokenizer(), seed=2).state_dict())
    with pytest.raises(Exception, match="damaged"):
        pool.take(replace(weights, checksum="0" * 64))
    pool.take(weights)


@pytest.mark.slow
def test_only_training_shows_hints(
    config: Config, samples: list[Sample], ray_env: dict[str, str]
) -> None:
    """Training plays on the frame that shows the target; evaluation, which is told nothing, asks on the side."""
    options = {
        "key_frames": 2,
        "reference_frames": 1,
        "frame_height": 28,
        "frame_width": 28,
        "target_height": 56,
        "target_width": 56,
        "negative_limit": 20.0,
        "max_tokens": 12,
        "prompt": "short",
        "sampler_samples": 2,
        "sampler_frames": 2,
        "sampler_rounds": 1,
        "sampler_max_tokens": 8,
    }
    hinting = RolloutPool(
        replace(config, system=SystemConfig("videoseg_r1", options)), place(config)
    )
    masks = [encode(np.full((56, 56), f == 4)) for f in range(6)]
    seen = [replace(sample, targets=(Target("o", tuple(masks)),)) for sample in samples[:3]]
    training, again = (
        list(hinting.play(seen, group_size=2, temperature=1.0, step=3, training=True))
        for _ in range(2)
    )
    told = [e for group in training for e in group.episodes]
    assert [e.answer.keyframe for e in told] == [4] * 6
    assert all(len(e.turns) == 1 for e in told)
    segments = [e.answer.facts["segment"] for e in told]
    assert {g.sample.uid: g.episodes for g in training} == {g.sample.uid: g.episodes for g in again}
    assert segments[0::2] == segments[1::2], "a group plays one prompt"
    [alone] = hinting.play(seen[:1], group_size=2, temperature=0.0, step=-1)
    first, second = alone.episodes
    assert [t.trainable for t in first.turns] == [False] * 4 + [True]
    assert len(second.turns) == 1
    assert (
        first.answer.keyframe == second.answer.keyframe == 3
    )  # nothing readable was said: the middle
    hinting.close()


@pytest.mark.slow
def test_groups_survive_the_death_of_their_actor(pool: RolloutPool, samples: list[Sample]) -> None:
    """One actor more, and the first one killed while it plays: all groups come, with the tokens they would have had."""
    calm = list(pool.play(samples, group_size=G, temperature=1.0, step=7))
    pool.scale(2)
    pool.ready()
    first = min(pool.workers)
    deaths = pool.deaths
    stormy: list[Played] = []
    for group in pool.play(samples, group_size=G, temperature=1.0, step=7):
        if not stormy:
            pool.workers[first].kill()
        stormy.append(group)
    assert sorted(p.index for p in stormy) == list(range(len(samples)))
    assert pool.deaths == deaths + 1
    assert first not in pool.workers
    assert tokens(calm) == tokens(stormy)
    assert pool.weights is not None
    versions = results([worker.call(RolloutActor.version) for worker in pool.workers.values()])
    assert versions == [pool.weights.version] * 2, (
        "an actor that joined late did not pull the current weights"
    )
    pool.scale(1)
    assert len(pool.workers) == 1


def test_an_actor_that_cannot_start_is_an_error(
    config: Config,
    samples: list[Sample],
    ray_env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder without weights: the engine does not start."""
    shutil.copy(Path(config.policy.path) / "config.json", tmp_path)
    without_weights = replace(config, policy=replace(config.policy, path=str(tmp_path)))
    monkeypatch.setattr(rollout, "MAX_ATTEMPTS", 1)
    broken = RolloutPool(without_weights, place(config))
    with pytest.raises(RuntimeError, match="'v0/0'.*died playing it"):
        list(broken.play(samples[:1], group_size=1, temperature=1.0, step=0))
    broken.close()


def test_with_a_gpu_backend_the_actors_are_fixed(
    config: Config, samples: list[Sample], ray_env: dict[str, str]
) -> None:
    """Without GPUs: whoever is lost or asked for is an error, before any weights are sent."""
    fixed = RolloutPool(
        replace(config, cluster=replace(config.cluster, weight_backend="nccl")), place(config)
    )
    with pytest.raises(
        RuntimeError, match="cannot join or leave a running cluster.weight_backend=nccl"
    ):
        fixed.scale(2)
    next(iter(fixed.workers.values())).kill()
    with pytest.raises(RuntimeError, match="use object_store"):
        list(fixed.play(samples[:1], group_size=1, temperature=1.0, step=0))
    fixed.close()


def test_settings_out_of_range_are_refused(pool: RolloutPool, samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match="rollout.workers=0"):
        pool.scale(0)
    with pytest.raises(ValueError, match="rollout.temperature=3"):
        next(pool.play(samples[:1], group_size=1, temperature=3.0, step=0))
