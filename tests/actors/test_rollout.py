"""Rollout actors on a real Ray with real engines: groups, failures, deaths, new weights."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import ray
import torch

from actors.rollout import Played, RolloutActor, RolloutPool, copies
from cluster.placement import place
from cluster.refs import Handle, call_all
from cluster.weight_writer import WeightWriter
from cluster.weights import WeightVersion, describe
from configs.schema import Config, SystemConfig
from core.episode_json import pack_episodes
from core.masks import encode
from core.types import End, Notes, Sample, Target, Video
from data.frames.shown import media_of, read_shown
from models.families import family_of
from models.policy import lora
from ray_jobs.driver.evaluation import stop_on_failures
from tests.models import tiny_engine

G = 4


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Twelve sentences about three videos of noise."""
    found: list[Sample] = []
    rng = np.random.default_rng(0)
    for number in range(3):
        folder = tmp_path_factory.mktemp(f"video{number}")
        names = tuple(f"{frame:05d}" for frame in range(6))
        for name in names:
            noise = rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"{name}.jpg"), noise)
        uid = f"v{number}"
        video = Video(uid, str(folder), names, 56, 56)
        target = Target("o", (None,) * 6)
        for expression in range(4):
            query = f"shape number {expression}"
            notes = Notes(thought="x")
            found.append(Sample(f"{uid}/{expression}", video, query, (target,), notes=notes))
    return found


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


def tokens(played: Iterable[Played]) -> dict[str, list[Sequence[int]]]:
    """Return the sampled tokens of every turn, by the uid of the sample."""
    found: dict[str, list[Sequence[int]]] = {}
    for group in played:
        completions: list[Sequence[int]] = []
        for episode in group.episodes:
            completions += [turn.completion_ids for turn in episode.turns]
        found[group.sample.uid] = completions
    return found


def other_weights(version: int) -> WeightVersion:
    """Random weights, as the learner publishes them for engines of other machines."""
    model = tiny_engine.model(tiny_engine.tokenizer(), seed=version)
    described, flat = describe(version, model.state_dict())
    return described.with_full(ray.put(flat))


def shared_weights(version: int) -> WeightVersion:
    """Random weights, as the learner publishes them; it is gone by now."""
    return shared(version, tiny_engine.model(tiny_engine.tokenizer(), seed=version).state_dict())


def shared_adapter(cfg: Config, version: int) -> WeightVersion:
    """A random adapter, as the learner publishes it alone."""
    policy = tiny_engine.model(tiny_engine.tokenizer(), seed=0)
    learner = cfg.learner
    settings = lora.Lora(learner.lora_rank, learner.lora_alpha, tuple(learner.lora_targets))
    lora.add(policy, settings, family_of(cfg.policy.path))
    generator = torch.Generator().manual_seed(version)
    with torch.no_grad():
        for tensor in lora.adapter(policy).values():
            tensor.normal_(0, 0.2, generator=generator)
    state = {name: tensor.detach() for name, tensor in lora.adapter(policy).items()}
    return shared(version, state)


def shared(version: int, state: dict[str, torch.Tensor]) -> WeightVersion:
    """Tensors in the memory of a learner that is gone by now."""
    described, _ = describe(version, state)
    draft = WeightWriter().draft(described.names, described.dtypes, described.shapes)
    for name, tensor in state.items():
        draft.put(name, tensor)
    return draft.finish(version).kept()


def versions(played: Iterable[Played]) -> set[int]:
    """Return the weight versions that sampled some groups."""
    found: set[int] = set()
    for group in played:
        for episode in group.episodes:
            found.update(turn.version for turn in episode.turns)
    return found


def test_the_images_of_groups_are_found_again_and_groups_repeat(
    pool: RolloutPool, samples: list[Sample]
) -> None:
    played = list(pool.play(samples[:3], group_size=G, temperature=1.0, step=0))
    assert sorted(group.index for group in played) == [0, 1, 2]
    for group in played:
        assert group.sample is samples[group.index]
        assert len(group.episodes) == G

        for episode in group.episodes:
            assert episode.end in (End.DONE, End.UNREADABLE, End.TRUNCATED)
        media = media_of(group.episodes)
        assert media
        pixels = read_shown(group.sample.video, media)
        assert set(pixels) == {each.digest for each in media}

        first_turns = [episode.turns[0] for episode in group.episodes]
        assert len({turn.prompt_ids for turn in first_turns}) == 1
        assert len({turn.completion_ids for turn in first_turns}) > 1

    again = list(pool.play(samples[:3], group_size=G, temperature=1.0, step=0))
    other = list(pool.play(samples[:3], group_size=G, temperature=1.0, step=1))
    assert tokens(played) == tokens(again)
    assert tokens(played) != tokens(other)


def test_the_actor_encodes_what_goes_into_the_group_log(
    pool: RolloutPool, samples: list[Sample]
) -> None:
    how: dict[str, Any] = {"group_size": 2, "temperature": 1.0, "step": 0}
    [logged] = pool.play(samples[:1], training=True, **how)
    assert logged.encoded is not None
    assert logged.encoded.tobytes() == pack_episodes(logged.episodes)
    [measured] = pool.play(samples[:1], **how)
    assert measured.encoded is None


def test_greedy_episodes_do_not_depend_on_the_step(
    pool: RolloutPool, samples: list[Sample]
) -> None:
    first = tokens(pool.play(samples[:1], group_size=1, temperature=0.0, step=0))
    second = tokens(pool.play(samples[:1], group_size=1, temperature=0.0, step=1))
    assert first == second


def test_an_error_inside_an_episode_stays_there(pool: RolloutPool, samples: list[Sample]) -> None:
    lost = replace(samples[1], video=replace(samples[1].video, path="/nowhere/video"))
    played: dict[int, Played] = {}
    for group in pool.play([samples[0], lost], group_size=2, temperature=1.0, step=0):
        played[group.index] = group
    for episode in played[1].episodes:
        assert episode.end is End.FAILED
        assert "/nowhere/video" in episode.error
        assert not episode.turns
    for episode in played[0].episodes:
        assert episode.end is not End.FAILED


def test_a_sample_without_room_for_an_answer_fails_alone(
    pool: RolloutPool, samples: list[Sample]
) -> None:
    endless = replace(samples[1], query="the one that " * 400)
    played: dict[int, Played] = {}
    for group in pool.play([samples[0], endless], group_size=2, temperature=1.0, step=0):
        played[group.index] = group
    assert played[1].too_long
    assert not played[0].too_long
    for episode in played[1].episodes:
        assert episode.end is End.FAILED
        limit = pool.cfg.rollout.max_model_len
        assert episode.error.startswith("the prompt of turn 1 has ")
        assert episode.error.endswith(f"rollout.max_model_len={limit}")
    stop_on_failures(played[1].episodes, max_share=0.0)


def test_copies_of_a_sample_in_one_step_differ(pool: RolloutPool, samples: list[Sample]) -> None:
    assert copies([samples[0], samples[1], samples[0], samples[0]]) == [0, 0, 1, 2]
    alone = list(pool.play(samples[:1], group_size=2, temperature=1.0, step=0))
    played: dict[int, Played] = {}
    for group in pool.play([samples[0]] * 2, group_size=2, temperature=1.0, step=0):
        played[group.index] = group
    assert tokens([played[0]]) == tokens(alone), "the first one is as without copies"
    assert tokens([played[1]]) != tokens(alone)


def test_new_weights_reach_the_engine(pool: RolloutPool, samples: list[Sample]) -> None:
    before = list(pool.play(samples[:1], group_size=G, temperature=1.0, step=0))
    pool.take(shared_weights(1))
    after = list(pool.play(samples[:1], group_size=G, temperature=1.0, step=0))
    assert versions(before) == {0}
    assert versions(after) == {1}
    assert tokens(before) != tokens(after)

    pool.take(other_weights(1))
    stored = list(pool.play(samples[:1], group_size=G, temperature=1.0, step=0))
    assert tokens(stored) == tokens(after), "by way of the object store they are the same"


def test_damaged_weights_are_an_error(pool: RolloutPool) -> None:
    weights = other_weights(2)
    damaged = ("0" * 32, *weights.checksums[1:])
    # One clear error, with tensor and engine.
    message = f"^weights: tensor '{weights.names[0]}' is damaged in the engine of pid "
    with pytest.raises(ValueError, match=message) as error:
        pool.take(replace(weights, checksums=damaged))
    assert type(error.value) is ValueError
    pool.take(shared_weights(2))


@pytest.mark.slow
def test_only_training_shows_hints(
    config: Config, samples: list[Sample], ray_env: dict[str, str]
) -> None:
    """Training plays on the target's frame. Evaluation has no hints and asks for it."""
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
    hinting_config = replace(config, system=SystemConfig("videoseg_r1", options))
    hinting = RolloutPool(hinting_config, place(hinting_config))

    # The target is visible on frame 4 only.
    masks = [encode(np.full((56, 56), frame == 4)) for frame in range(6)]
    target = Target("o", tuple(masks))
    seen = [replace(sample, targets=(target,)) for sample in samples[:3]]
    training = list(hinting.play(seen, group_size=2, temperature=1.0, step=3, training=True))
    again = list(hinting.play(seen, group_size=2, temperature=1.0, step=3, training=True))
    for group in training:
        first, second = group.episodes
        for episode in group.episodes:
            assert episode.answer.keyframe == 4
            assert len(episode.turns) == 1
        # A group plays one prompt.
        assert first.answer.facts["segment"] == second.answer.facts["segment"]
    repeated = {group.sample.uid: group.episodes for group in again}
    assert {group.sample.uid: group.episodes for group in training} == repeated

    [alone] = hinting.play(seen[:1], group_size=2, temperature=0.0, step=-1)
    first, second = alone.episodes
    assert [turn.trainable for turn in first.turns] == [False] * 4 + [True]
    assert len(second.turns) == 1
    # The policy says nothing readable, so the middle frame is taken.
    assert first.answer.keyframe == second.answer.keyframe == 3
    hinting.close()


def starting_engine(worker: Handle[RolloutActor]) -> psutil.Process:
    """Wait for the engine's process of an actor that starts."""
    while True:
        # 0 until Ray knows it.
        pid = worker.where().pid
        for child in psutil.Process(pid).children(recursive=True) if pid else ():
            if title_of(child).startswith("VLLM::EngineCore"):
                return child
        time.sleep(0.05)


def title_of(process: psutil.Process) -> str:
    """Return the first word of a command line; nothing of a process that has ended."""
    with suppress(psutil.NoSuchProcess):
        return "".join(process.cmdline()[:1])
    return ""


@pytest.mark.slow
def test_groups_survive_the_death_of_their_actor(pool: RolloutPool, samples: list[Sample]) -> None:
    """Kill one of two actors while it plays: all groups come, with the same tokens.

    The engine of the other one is killed before that, while it starts.
    """
    calm = list(pool.play(samples, group_size=G, temperature=1.0, step=7))
    deaths = pool.deaths
    pool.scale(2)
    first, second = sorted(pool.workers)
    starting_engine(pool.workers[second]).kill()
    pool.ready()
    assert pool.deaths == deaths + 1
    assert sorted(pool.workers) == [first, second + 1]

    deaths = pool.deaths
    stormy: list[Played] = []
    for group in pool.play(samples, group_size=G, temperature=1.0, step=7):
        if not stormy:
            pool.workers[first].kill()
        stormy.append(group)
    assert sorted(group.index for group in stormy) == list(range(len(samples)))
    assert pool.deaths == deaths + 1
    assert first not in pool.workers
    assert tokens(calm) == tokens(stormy)

    # Who started in the place of a lost actor has pulled the current weights.
    assert pool.weights is not None
    replacing = pool.workers[second + 1]
    assert call_all([replacing], RolloutActor.version) == [pool.weights.version]
    # Another one starts for the first actor; it is not waited for.
    pool.scale(1)
    assert list(pool.workers) == [second + 1]


def test_an_actor_that_cannot_start_is_an_error(
    config: Config,
    samples: list[Sample],
    ray_env: dict[str, str],
    tmp_path: Path,
) -> None:
    """A folder without weights: the engine does not start, and is not started again."""
    shutil.copy(Path(config.policy.path) / "config.json", tmp_path)
    without_weights = replace(config, policy=replace(config.policy, path=str(tmp_path)))
    broken = RolloutPool(without_weights, place(config))
    with pytest.raises(ray.exceptions.ActorDiedError, match="raised in its creation task"):
        list(broken.play(samples[:1], group_size=1, temperature=1.0, step=0))
    assert broken.deaths == 0
    broken.close()


def test_who_takes_the_place_of_a_dead_actor_has_the_newest_adapter(
    config: Config, samples: list[Sample], ray_env: dict[str, str]
) -> None:
    targets = ["k_proj", "o_proj"]
    learner = replace(config.learner, lora_rank=4, lora_targets=targets, lora_publish="adapter")
    cfg = replace(config, learner=learner)
    pool = RolloutPool(cfg, place(cfg), learns=True)

    def play() -> list[Played]:
        return list(pool.play(samples[:2], group_size=G, temperature=1.0, step=0))

    base = play()
    assert versions(base) == {0}
    for version in (1, 2):
        pool.take(shared_adapter(cfg, version))
    newest = play()
    assert versions(newest) == {2}
    assert tokens(newest) != tokens(base)
    next(iter(pool.workers.values())).kill()
    again = play()
    assert pool.deaths == 1
    assert versions(again) == {2}
    assert tokens(again) == tokens(newest)
    pool.close()


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
