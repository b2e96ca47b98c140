"""Run folders of every system, played and rewarded by its own code; a script answers, no engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.setup import make_system
from configs.load import load, resolve, to_yaml
from configs.schema import Config
from core.masks import decode
from core.types import Episode, Group, Reward, Rle, Sample, System, Turn, View
from data.frames.reading import show_views
from models.dialogue import Dialogue, load_dialogue
from ray_jobs.driver.keeping import Keeping
from ray_jobs.driver.results import Evaluation, Result
from ray_jobs.record.kept import pictures_folder
from ray_jobs.record.mlflow_writer import MlflowWriter
from ray_jobs.record.pictures import Pictures
from ray_jobs.record.run_folder import RunFolder
from ray_jobs.record.words import Words
from tests.ray_jobs.replay_run import HOSTILE, sample_of

SYSTEMS = ("revseg", "videoseg_r1", "videoseg_o3", "veason_r1")


class Told:
    """An `Ask` that says given texts, in the tokens of a policy, and saw the pictures it is sent.

    Behind the last text it says that one again.
    """

    version = 0

    def __init__(self, dialogue: Dialogue, sample: Sample, texts: Sequence[str]) -> None:
        self.dialogue = dialogue
        self.sample = sample
        self.texts = texts
        self.turns = 0

    async def __call__(
        self, content: Sequence[str | View], *, max_tokens: int, trainable: bool = True
    ) -> Turn:
        text = self.texts[min(self.turns, len(self.texts) - 1)]
        views = [each for each in content if isinstance(each, View)]
        media = [each for each, _ in show_views(self.sample.video, views)]
        prompt = self.dialogue.user(content, first=self.turns == 0, expanded=True)
        completion = (*self._ids(text), self.dialogue.end_id)
        logprobs = tuple(-0.1 * (number % 50) for number in range(len(completion)))
        self.turns += 1
        return Turn(tuple(prompt), completion, logprobs, text, tuple(media), True, 0, trainable)

    async def auxiliary(
        self, content: Sequence[str | View], *, max_tokens: int, temperature: float, top_p: float
    ) -> Turn:
        return replace(await self(content, max_tokens=max_tokens), trainable=False)

    def count(self, text: str) -> int:
        return len(self._ids(text))

    def id_of(self, token: str) -> int | None:
        ids = self._ids(token)
        return ids[0] if len(ids) == 1 else None

    def _ids(self, text: str) -> list[int]:
        # No tokenizer takes half of a surrogate pair.
        return self.dialogue.text(text.encode(errors="replace").decode())


def write_system_run(tmp: Path, system: str, name: str, steps: int = 2) -> Path:
    """A run of a shipped preset: in each step one group with a right, a hostile and a poor answer.

    The second sample has a hostile sentence.
    """
    cfg = load([f"{system}_tiny"])
    sample = sample_of(tmp / "video", "v/0", "the red square that moves")
    hostile = replace(sample, uid="v/1", query=HOSTILE.replace("\ud800", ""))
    folder = RunFolder.open(tmp / "runs" / name, to_yaml(cfg))
    keeping = _keeping(folder.path, cfg, [sample, hostile], steps)
    dialogue = _dialogue(cfg)
    playing = make_system(cfg)
    for step in range(1, steps + 1):
        groups = [_group(playing, dialogue, each, step) for each in (sample, hostile)]
        folder.write_episodes(step, groups, keeping.words)
        folder.write_step(step, {"reward": 0.5 * step}, {"play": 1.25, "learn": 0.5})
        keeping.step(step, groups)
    [episode, *_] = groups[0].episodes
    [reward, *_] = groups[0].rewards
    masks_F = tuple(sample.targets[0].masks_F)
    result = Result(sample, episode, masks_F, reward, {"J": 0.75, "F": 0.85})
    keeping.evaluation(steps, "greedy", Evaluation((result,)))
    keeping.close()
    return folder.path


def _dialogue(cfg: Config) -> Dialogue:
    return load_dialogue(resolve(cfg.policy.path))


def _keeping(run: Path, cfg: Config, samples: Sequence[Sample], steps: int) -> Keeping:
    dialogue = _dialogue(cfg)
    words = Words({each.uid: each for each in samples}, dialogue.tokenizer, dialogue.image_id)
    pictures = Pictures.open(pictures_folder(run), cfg.record.megabytes << 20)
    # Without a URI it does nothing.
    tracker = MlflowWriter("", "", "", run)
    thread = ThreadPoolExecutor(max_workers=1)
    return Keeping(run, cfg.record, steps, words, pictures, print, tracker, 0, thread)


def _group(system: System, dialogue: Dialogue, sample: Sample, step: int) -> Group:
    rng = np.random.default_rng(step)
    right = [text for _, text in system.demonstrate(sample, rng)]
    # The system may choose a frame to train on, the same one for the whole group.
    shown = system.shown(sample, np.random.default_rng(step))
    episodes = []
    for texts in (right, [HOSTILE], [f"{right[0][:20]}", *right[1:]]):
        asked = Told(dialogue, sample, texts)
        episodes.append(asyncio.run(system.play(shown, asked)))
    rewards = _rewards(system, sample, episodes)
    return _judged(Group(sample.uid, tuple(episodes), tuple(rewards)))


def _judged(group: Group) -> Group:
    totals = [reward.total for reward in group.rewards if reward is not None]
    advantages = tuple(total - float(np.mean(totals)) for total in totals)
    return replace(group, advantages_G=advantages)


def _rewards(system: System, sample: Sample, episodes: Sequence[Episode]) -> list[Reward]:
    """Rewards in which every mask is the truth, with the masks that the page shows."""
    truth_F = sample.targets[0].masks_F
    frames_by_episode = [_frames(system, sample, episode) for episode in episodes]
    masks: Any = None
    if system.masks_by:
        masks = []
        for frames in frames_by_episode:
            masks.append([_decoded(truth_F[frame]) for frame in frames])
    rewards = []
    columns = zip(system.score(sample, episodes, masks), frames_by_episode, strict=True)
    for reward, frames in columns:
        seen = []
        for frame in frames:
            rle = truth_F[frame]
            if system.masks_by and rle is not None:
                seen.append((frame, rle))
        rewards.append(replace(reward, masks=tuple(seen), seconds=0.25))
    return rewards


def _frames(system: System, sample: Sample, episode: Episode) -> list[int]:
    """The frames of the masks that a reward asks for."""
    if system.masks_by == "policy":
        return [seg.frame for seg in episode.answer.segs]
    if system.masks_by == "tracker":
        return list(range(sample.video.num_frames))
    return [prompt.frame for prompt in episode.answer.prompts]


def _decoded(rle: Rle | None) -> np.ndarray | None:
    return None if rle is None else decode(rle)
