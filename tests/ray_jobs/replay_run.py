"""Run folders for the replay page, written by the driver's own recording, without an engine."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from configs.load import REPOSITORY, load, to_yaml
from configs.schema import RecordConfig
from core.masks import encode
from core.types import (
    Answer,
    End,
    Episode,
    Group,
    MaskPrompt,
    Reward,
    Sample,
    Target,
    Turn,
    Video,
    View,
)
from data.frames.reading import show_views
from models.dialogue import Dialogue, load_dialogue
from ray_jobs.driver.keeping import Keeping
from ray_jobs.driver.results import Evaluation, Result
from ray_jobs.record.kept import pictures_folder
from ray_jobs.record.mlflow_writer import MlflowWriter
from ray_jobs.record.pictures import Pictures
from ray_jobs.record.run_folder import RunFolder
from ray_jobs.record.words import Words

FRAMES = 8
HEIGHT = 60
WIDTH = 90
# What a model may write: markup, ends of scripts, separators of lines, half of a surrogate pair.
HOSTILE = (
    "<think><img src=x onerror=\"document.title='owned'\"></think>"
    "</script><script>document.title='owned'</script> \u2028 \u202e \ud800 ${1} \\u003c `"
)


@cache
def dialogue() -> Dialogue:
    return load_dialogue(REPOSITORY / "tiny/weights/revseg")


def sample_of(folder: Path, uid: str, query: str) -> Sample:
    """A red square that walks to the right over noise; not visible in the last frame."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    masks_F = []
    names = []
    for frame in range(FRAMES):
        image = rng.integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        truth = np.zeros((HEIGHT, WIDTH), bool)
        if frame < FRAMES - 1:
            truth[20:40, 5 + 6 * frame : 25 + 6 * frame] = True
        image[truth] = (220, 60, 60)
        names.append(f"{frame:05d}")
        Image.fromarray(image).save(folder / f"{names[-1]}.png")
        masks_F.append(encode(truth) if truth.any() else None)
    video = Video("v", str(folder), tuple(names), HEIGHT, WIDTH)
    return Sample(uid, video, query, (Target("0", tuple(masks_F)),), kind="motion")


def turn_of(sample: Sample, text: str, frames: tuple[int, ...], version: int) -> Turn:
    talk = dialogue()
    media = []
    for each, _ in show_views(sample.video, [View(frame, 28, 56) for frame in frames]):
        media.append(each)
    # No tokenizer takes half of a surrogate pair.
    sayable = text.encode(errors="replace").decode()
    completion = (*talk.text(sayable), talk.end_id)
    logprobs = tuple(-0.1 * (number % 50) for number in range(len(completion)))
    prompt = (
        *talk.text(f"Find: {sample.query}".replace("\ud800", "?")),
        *[talk.image_id] * 2 * len(frames),
    )
    return Turn(prompt, completion, logprobs, text, tuple(media), True, version)


def group_of(sample: Sample, step: int, texts: tuple[str, ...]) -> Group:
    """A group whose episodes answer with boxes, each better than the one before it."""
    episodes = []
    rewards = []
    for number, text in enumerate(texts):
        box = (5.0 + number, 20.0, 25.0 + number, 40.0)
        prompt = MaskPrompt(3, box, ((15.0, 30.0), (80.0, 5.0)), (1, 0))
        turns = (
            turn_of(sample, text, (0, 3, 6), step - 1),
            turn_of(sample, f'<answer>[{{"bbox_2d":{list(box)}}}]</answer>', (3,), step - 1),
        )
        answer = Answer((prompt,), {"box": list(box)}, keyframe=3)
        episodes.append(Episode(sample.uid, turns, End.DONE, answer, seconds=1.5 + number))
        parts = {"format": 1.0, "spatial": number - 0.5}
        rewards.append(Reward(0.5 + number, parts, seconds=0.25))
    advantages = tuple(number - 1.0 for number in range(len(texts)))
    return Group(sample.uid, tuple(episodes), tuple(rewards), advantages)


def learned(group: Group) -> Group:
    """The group with an entropy of each token, 0.5 higher from turn to turn."""
    entropies = []
    for episode in group.episodes:
        first, second = (len(turn.completion_ids) for turn in episode.turns)
        entropies.append(np.repeat(np.array([0.5, 1.0], np.float32), (first, second)))
    return replace(group, entropies_G=tuple(entropies))


def keeping_of(
    run: Path, samples: list[Sample], tracker: MlflowWriter | None = None, **settings: Any
) -> Keeping:
    talk = dialogue()
    words = Words({each.uid: each for each in samples}, talk.tokenizer, talk.image_id)
    cfg = RecordConfig(**settings)
    pictures = Pictures.open(pictures_folder(run), cfg.megabytes << 20)
    # Without a URI it does nothing.
    tracker = tracker or MlflowWriter("", "", "", run)
    thread = ThreadPoolExecutor(max_workers=1)
    return Keeping(run, cfg, 3, words, pictures, print, tracker, 2, thread)


def write_run(tmp: Path, name: str, bonus: float = 0.0, steps: int = 3) -> Path:
    """A run of three steps, two samples and one evaluation; one answer is hostile.

    The groups of the first sample are learned, the others are not.
    """
    first = sample_of(tmp / "video", "v/0", "the red square that moves")
    second = replace(first, uid="v/1", query=f"{HOSTILE}", kind="<b>kind</b>")
    folder = RunFolder.open(tmp / "runs" / name, to_yaml(load(["revseg_tiny"])))
    keeping = keeping_of(folder.path, [first, second], episodes=6)
    for step in range(1, steps + 1):
        groups = [
            learned(
                group_of(
                    first, step, ("<think>it moves</think>", f"ünïcode 漢字 in step {step}", "c")
                )
            ),
            group_of(second, step, (HOSTILE, "plain words", "more")),
        ]
        folder.write_episodes(step, groups, keeping.words)
        folder.write_step(step, {"reward": 0.5 * step + bonus}, {"play": 1.25, "learn": 0.5})
        keeping.step(step, groups)
    keeping.evaluation(
        steps, "greedy", evaluation_of(first, group_of(first, steps, ("one", "two")))
    )
    keeping.close()
    return folder.path


def evaluation_of(sample: Sample, group: Group) -> Evaluation:
    """An evaluation of the first episodes, whose masks are the truth."""
    masks_F = tuple(sample.targets[0].masks_F)
    results = []
    for episode, reward in zip(group.episodes, group.rewards, strict=True):
        results.append(Result(sample, episode, masks_F, reward, {"J": 0.75, "F": 0.85}))
    return Evaluation(tuple(results))


def data_of(file: Path) -> Any:
    """The value that a script hands to the page."""
    text = file.read_text(encoding="ascii")
    literal = text[text.index(",") + 1 : text.rindex(")")]
    return json.loads(json.loads(literal))


def columns_of(run: Path) -> dict[str, list[Any]]:
    """The columns of a run's index, unpacked."""
    columns = {}
    for name, column in data_of(run / "replay/data/index.js")["columns"].items():
        if isinstance(column, dict):
            runs = column["runs"]
            column = []
            for value, number in zip(runs[::2], runs[1::2], strict=True):
                column += [value] * number
        columns[name] = column
    return columns
