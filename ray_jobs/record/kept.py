"""Groups kept in full for the replay page: what the page draws, beyond the text of episodes.jsonl.

    runs/<name>/replay/kept/step_N.jsonl            a line for each kept group of a step
    runs/<name>/replay/kept/eval_N_<how>.jsonl      the best and the worst of an evaluation
    runs/<name>/replay/pictures/<digest>.jpg

A line has the frames of the video, the truth on them, and for each episode its tokens, the pictures
it was shown, and its masks. A token is [text, log-prob], or [text, log-prob, entropy] where it was
learned.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.files import json_line, write_atomic
from core.geometry import uniform_frames
from core.masks import union
from core.types import Answer, Episode, Group, Reward, Rle, Sample, Turn
from ray_jobs.record.words import Words

FOLDER = "replay"
_STEP = re.compile(r"step_(\d+)\.jsonl")


def kept_folder(run: Path) -> Path:
    return run / FOLDER / "kept"


def pictures_folder(run: Path) -> Path:
    return run / FOLDER / "pictures"


def chosen(groups: Sequence[Group], episodes: int) -> list[Group]:
    """Return whole groups with about this many episodes, at least one group; none for 0.

    Samples are ranked by a hash of their uid, so that one sample is kept at each step that plays
    it, in every run.
    """
    if episodes == 0:
        return []
    ranked = sorted(groups, key=_rank)
    kept: list[Group] = []
    number = 0
    for group in ranked:
        number += len(group.episodes)
        if kept and number > episodes:
            break
        kept.append(group)
    return kept


def _rank(group: Group) -> str:
    return hashlib.blake2b(group.sample_uid.encode(errors="surrogatepass")).hexdigest()


def spread(frames: int, most: int, wanted: Iterable[int]) -> list[int]:
    """Return about `most` frames, evenly over the video, with all of the wanted ones."""
    found = set(uniform_frames(frames, most))
    for frame in wanted:
        if 0 <= frame < frames:
            found.add(frame)
    return sorted(found)


def wanted_frames(episodes: Sequence[Episode]) -> set[int]:
    """Return the frames that the answers of some episodes are about."""
    frames = set()
    for episode in episodes:
        answer = episode.answer
        if answer.keyframe is not None:
            frames.add(int(answer.keyframe))
        frames.update(int(prompt.frame) for prompt in answer.prompts)
        frames.update(int(seg.frame) for seg in answer.segs)
    return frames


def masks_at(masks_F: Sequence[Rle | None], frames: Iterable[int]) -> list[list[Any]]:
    """Return [frame, mask] for each of the frames with a mask."""
    found: list[list[Any]] = []
    for frame in frames:
        rle = masks_F[frame] if frame < len(masks_F) else None
        if rle is not None:
            found.append([frame, rle])
    return found


def masks_of(reward: Reward | None) -> list[list[Any]]:
    """Return [frame, mask] for each frame with masks of a reward: their union."""
    by_frame: dict[int, list[Rle | None]] = {}
    for frame, rle in () if reward is None else reward.masks:
        by_frame.setdefault(frame, []).append(rle)
    return [[frame, union(rles)] for frame, rles in sorted(by_frame.items())]


def group_line(
    head: Mapping[str, Any],
    sample: Sample,
    frames: Mapping[int, str],
    truth: Sequence[Sequence[Any]],
    episodes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the line of a group.

    Args:
        head: The step, or the step and the name of the evaluation.
        frames: Digests of the pictures of the video, by frame.
        truth: As `masks_at`.
        episodes: Entries of `episode_entry`.
    """
    video = sample.video
    return {
        **head,
        "sample": sample.uid,
        "video": video.uid,
        "height": video.height,
        "width": video.width,
        "num_frames": video.num_frames,
        "frames": list(frames.items()),
        "truth": list(truth),
        "episodes": list(episodes),
    }


def episode_entry(
    number: int,
    episode: Episode,
    words: Words,
    masks: Sequence[Sequence[Any]] = (),
    entropy_N: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the entry of one episode.

    Args:
        number: Its number in the group.
        masks: As `masks_at`.
        entropy_N: As in `core.types.Update.entropies`.
    """
    # Only trainable turns are learned.
    rest = [] if entropy_N is None else entropy_N.tolist()
    turns = []
    for turn in episode.turns:
        count = len(turn.completion_ids) if turn.trainable else 0
        turns.append(_turn(turn, words, rest[:count]))
        rest = rest[count:]
    return {"episode": number, "turns": turns, "masks": list(masks)}


def answer_places(answer: Answer) -> list[dict[str, Any]]:
    """Return boxes and points of an answer."""
    return [dict(vars(prompt)) for prompt in answer.prompts]


def _turn(turn: Turn, words: Words, entropies: Sequence[float]) -> dict[str, Any]:
    shown = []
    for media in turn.media:
        view = media.view
        shown.append([view.frame, media.digest, view.height, view.width])
    pieces: list[list[Any]] = []
    for text, logprob in words.pieces(turn):
        rounded = None if logprob is None else round(float(logprob), 4)
        pieces.append([text, rounded])
    for piece, entropy in zip(pieces, entropies, strict=False):
        piece.append(round(entropy, 4))
    return {"pieces": pieces, "shown": shown}


def write_kept(folder: Path, name: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the kept groups of a step or of an evaluation, in the place of earlier ones."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json_line(line) for line in lines)
    write_atomic(folder / f"{name}.jsonl", text)


def forget_after(folder: Path, step: int) -> None:
    """Remove the kept groups of later steps: they are played again."""
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        match = _STEP.fullmatch(file.name)
        if match and int(match[1]) > step:
            file.unlink()
