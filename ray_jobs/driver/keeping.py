"""Keep some episodes of a run in full for its replay page: their pictures, tokens and masks.

MLflow gets the tables of evaluations, the texts of some episodes, and a picture of each step.

A thread beside the run does it, so that no step waits for its own pictures, only for those of the
last one. A mistake here costs pictures, never the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from actors.setup import system_message
from configs.load import resolve
from configs.schema import Config, RecordConfig
from core.digest import image_digest
from core.masks import union_of_targets
from core.types import Episode, Group, Sample, Video, View
from data.frames.reading import show_views
from ray_jobs.driver.results import Evaluation, Result, best_and_worst, write_evaluation
from ray_jobs.record.kept import (
    chosen,
    episode_entry,
    forget_after,
    group_line,
    kept_folder,
    masks_at,
    masks_of,
    pictures_folder,
    spread,
    wanted_frames,
    write_kept,
)
from ray_jobs.record.mlflow_writer import MlflowWriter
from ray_jobs.record.overlay import episode_picture
from ray_jobs.record.pictures import Pictures
from ray_jobs.record.run_folder import episode_lines
from ray_jobs.record.words import Words

# Best and worst expressions of an evaluation, each.
ENDS = 4
# The part of the limit that the beginning of a run may use.
FIRST_SHARE = 0.1


@dataclass
class Keeping:
    """The kept episodes of one run.

    Attributes:
        folder: The run folder.
        cfg: What to keep.
        steps: Steps of the run: pictures may use up their limit only by its end.
        words: The words of its episodes.
        pictures: Its pictures.
        say: Takes a line for the user.
        tracker: The copy in MLflow.
        traces: Episodes of a step whose texts go there.
    """

    folder: Path
    cfg: RecordConfig
    steps: int
    words: Words
    pictures: Pictures
    say: Callable[[str], None]
    tracker: MlflowWriter
    traces: int
    _thread: ThreadPoolExecutor
    _last: Future[None] | None = None
    _failed: bool = False

    def step(self, step: int, groups: Sequence[Group]) -> None:
        """Keep some groups of a step."""
        for group in chosen(groups, self.traces):
            for line in episode_lines(step, group, self.words):
                self.tracker.episode(line)
        kept = chosen(groups, self.cfg.episodes)
        if kept:
            self._start(self._keep_step, step, kept)

    def evaluations(self, step: int, by_how: Mapping[str, Evaluation]) -> None:
        """Write and keep the evaluations of a step."""
        for how, evaluation in by_how.items():
            self.evaluation(step, how, evaluation)

    def evaluation(self, step: int, how: str, evaluation: Evaluation) -> None:
        """Write an evaluation, and keep its best and its worst expressions.

        Args:
            how: Its folder below that of the step.
        """
        write_evaluation(self._evaluation_folder(step, how), evaluation, self.words)
        self.keep_evaluation(step, how, evaluation)

    def keep_evaluation(self, step: int, how: str, evaluation: Evaluation) -> None:
        """Keep the best and the worst expressions of an evaluation that is written already."""
        folder = self._evaluation_folder(step, how)
        there = f"evaluation/step_{step}/{how}"
        self.tracker.table(folder / "per_expression.csv", f"{there}/per_expression.json")
        self.tracker.artifact(folder / "summary.json", there)
        if self.cfg.episodes:
            results = best_and_worst(evaluation.results, ENDS)
            repeats = Counter(result.sample.uid for result in evaluation.results)
            self._start(self._keep_evaluation, step, how, results, repeats)

    def _evaluation_folder(self, step: int, how: str) -> Path:
        return self.folder / "evaluation" / f"step_{step}" / how

    def forget_after(self, step: int) -> None:
        """Drop the kept groups of later steps."""
        self._wait()
        forget_after(kept_folder(self.folder), step)

    def close(self) -> None:
        """Wait for the pictures of the last step."""
        self._wait()
        self._thread.shutdown()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do some work in the thread; before it the last work is finished."""
        self._wait()
        self._last = self._thread.submit(work, *arguments)

    def _wait(self) -> None:
        if self._last is None:
            return
        error = self._last.exception()
        self._last = None
        if error is not None and not self._failed:
            self._failed = True
            self.say(f"the replay page lacks pictures: {error}")

    def _keep_step(self, step: int, groups: Sequence[Group]) -> None:
        lines = []
        for group in groups:
            sample = self.words.samples[group.sample_uid]
            entries = []
            entropies = group.entropies_G or (None,) * len(group.episodes)
            columns = zip(group.episodes, group.rewards, entropies, strict=True)
            for number, (episode, reward, entropy_N) in enumerate(columns):
                self._keep_shown(sample.video, episode, step)
                masks = masks_of(reward)
                entry = episode_entry(number, episode, self.words, masks, entropy_N)
                entries.append(entry)
            lines.append(self._line({"step": step}, sample, group.episodes, entries, step))
        write_kept(kept_folder(self.folder), f"step_{step}", lines)
        if self.tracker.is_on:
            self._keep_picture(step, groups[0])

    def _keep_picture(self, step: int, group: Group) -> None:
        """Keep one picture of the best and the worst episode of a group, for MLflow."""
        sample = self.words.samples[group.sample_uid]
        truth_F = union_of_targets(sample)
        shown = [episode_picture(sample, each, truth_F) for each in _ends_of(group)]
        image_HWC = np.vstack(shown)
        name = f"step_{step}_{image_digest(image_HWC)[:8]}"
        if self.pictures.add(name, image_HWC, self._share(step)):
            self.tracker.artifact(self.pictures.folder / f"{name}.jpg", "episodes")

    def _keep_evaluation(
        self, step: int, how: str, results: Sequence[Result], repeats: Mapping[str, int]
    ) -> None:
        lines = []
        head = {"step": step, "how": how}
        for result in results:
            sample = result.sample
            self._keep_shown(sample.video, result.episode, step)
            frames = self._frames(sample.video, [result.episode])
            masks = masks_at(result.masks_F, frames)
            # Of several repeats the last one stands for its expression.
            number = repeats[sample.uid] - 1
            entry = episode_entry(number, result.episode, self.words, masks)
            lines.append(self._line(head, sample, [result.episode], [entry], step))
        write_kept(kept_folder(self.folder), f"eval_{step}_{how}", lines)

    def _line(
        self,
        head: Mapping[str, Any],
        sample: Sample,
        episodes: Sequence[Episode],
        entries: Sequence[Mapping[str, Any]],
        step: int,
    ) -> dict[str, Any]:
        frames = self._frames(sample.video, episodes)
        views = [View(frame, *self._size(sample.video)) for frame in frames]
        pictures = {}
        for media, image_HWC in show_views(sample.video, views):
            if self.pictures.add(media.digest, image_HWC, self._share(step)):
                pictures[media.view.frame] = media.digest
        truth = masks_at(union_of_targets(sample), frames)
        return group_line(head, sample, pictures, truth, entries)

    def _keep_shown(self, video: Video, episode: Episode, step: int) -> None:
        """Keep the pictures that an episode was shown, decoded again."""
        views = set()
        for turn in episode.turns:
            for media in turn.media:
                views.add(media.view)
        ordered = sorted(views, key=_place)
        for media, image_HWC in show_views(video, ordered):
            self.pictures.add(media.digest, image_HWC, self._share(step))

    def _frames(self, video: Video, episodes: Sequence[Episode]) -> list[int]:
        return spread(video.num_frames, self.cfg.frames, wanted_frames(episodes))

    def _size(self, video: Video) -> tuple[int, int]:
        """Return height and width of the kept frames of a video; none is enlarged."""
        scale = min(1.0, self.cfg.side / max(video.height, video.width))
        return max(1, round(scale * video.height)), max(1, round(scale * video.width))

    def _share(self, step: int) -> float:
        done = min(1.0, step / max(self.steps, 1))
        return FIRST_SHARE + (1.0 - FIRST_SHARE) * done


def _ends_of(group: Group) -> list[Episode]:
    """Return the best and the worst episode of a group, as far as it has rewards."""
    ranked = []
    for episode, reward in zip(group.episodes, group.rewards or (), strict=False):
        if reward is not None:
            ranked.append((reward.total, episode))
    ranked.sort(key=itemgetter(0), reverse=True)
    if not ranked:
        return list(group.episodes[:1])
    best = ranked[0][1]
    worst = ranked[-1][1]
    return [best, worst]


def _place(view: View) -> tuple[int, int, int]:
    return view.frame, view.height, view.width


@contextmanager
def keeping(
    cfg: Config,
    folder: Path,
    samples: Mapping[str, Sequence[Sample]],
    say: Callable[[str], None],
    tracker: MlflowWriter,
) -> Iterator[Keeping]:
    """Open the kept episodes of a run; at the end wait for the last ones.

    Args:
        samples: The samples of the run, by split.
    """
    from models.dialogue import load_dialogue

    dialogue = load_dialogue(resolve(cfg.policy.path), system_message(cfg))
    by_uid: dict[str, Sample] = {}
    for of_split in samples.values():
        for sample in of_split:
            by_uid[sample.uid] = sample
    words = Words(by_uid, dialogue.tokenizer, dialogue.image_id)
    pictures = Pictures.open(pictures_folder(folder), cfg.record.megabytes << 20)
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keeping")
    traces = cfg.tracking.traces
    kept = Keeping(
        folder, cfg.record, cfg.train.steps, words, pictures, say, tracker, traces, thread
    )
    try:
        yield kept
    finally:
        kept.close()
