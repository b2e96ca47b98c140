"""The one inference path, with scripted actors: order, hidden truth, and failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from actors.rollout import Played
from actors.segmenter import WHOLE_BYTES, Tasks, Tracked, Truth
from core.evaluation.protocols import measure
from core.masks import encode
from core.types import Answer, End, Episode, MaskPrompt, Notes, Reward, Sample, Target, Video
from ray_jobs.driver import measuring
from ray_jobs.driver.evaluation import evaluate, measured
from ray_jobs.driver.masking import PointingPolicy
from ray_jobs.driver.pools import Pools
from ray_jobs.driver.results import Result
from ray_jobs.driver.run import Run

VIDEO = Video("v", "nowhere", ("0", "1"), 8, 8)
LEFT = encode(np.arange(64).reshape(8, 8) % 8 < 4)
PROMPT = MaskPrompt(0, (0.0, 0.0, 4.0, 8.0))


def sample(number: int, hidden: bool = False) -> Sample:
    targets = () if hidden else (Target("t", (LEFT, LEFT)),)
    return Sample(f"v/{number}", VIDEO, "the left half", targets, notes=Notes(hidden=hidden))


class Rollouts:
    """Plays one episode of each sample; groups arrive in reverse order."""

    def __init__(self, failed: Sequence[str] = ()) -> None:
        self.failed = failed
        self.played: list[str] = []

    def play(
        self, samples: Sequence[Sample], *, group_size: int, temperature: float, step: int
    ) -> Iterator[Played]:
        for index in reversed(range(len(samples))):
            uid = samples[index].uid
            self.played.append(uid)
            episode = Episode(uid, (), End.DONE, Answer((PROMPT,)))
            if uid in self.failed:
                episode = Episode(uid, (), End.FAILED, error="Traceback\nKeyError: 'frames'")
            yield Played(index, samples[index], (episode,) * group_size)


class Rewards:
    """Pays 1 for each episode that did not fail."""

    def __init__(self) -> None:
        self.submitted: list[str] = []

    def submit(self, split: str, uid: str, episodes: Sequence[Episode], *_: Any) -> Any:
        self.submitted.append(uid)
        return episodes

    def collect(self, episodes: Sequence[Episode]) -> list[Reward | None]:
        rewards: list[Reward | None] = []
        for episode in episodes:
            failed = episode.end is End.FAILED
            rewards.append(None if failed else Reward(1.0, {"box": 1.0}))
        return rewards


class Segmenters:
    """Returns the left half for a prompt, on the first frame alone. A task is its own flight.

    Attributes:
        slow: tasks are not done before somebody waits for them.
        under_way: most episodes that were under way at a time.
    """

    def __init__(self, slow: bool = False) -> None:
        self.slow = slow
        self.under_way = 0
        self._waiting = 0

    def hand_out(self, tasks: Tasks) -> Tasks:
        self._waiting += sum(len(task.episodes) for task in tasks)
        self.under_way = max(self.under_way, self._waiting)
        return tasks

    def is_done(self, tasks: Tasks) -> bool:
        return not self.slow

    def wait_for(self, tasks: Tasks) -> list[list[Tracked]]:
        self._waiting -= sum(len(task.episodes) for task in tasks)
        found = []
        for task in tasks:
            pairs = zip(task.episodes, task.truths, strict=True)
            found.append([self.tracked(prompts, truth) for prompts, truth in pairs])
        return found

    def tracked(self, prompts: Sequence[Any], truth: Truth | None) -> Tracked:
        masks_F = (LEFT, None) if prompts else (None, None)
        if truth is None:
            return Tracked(masks_F, {})
        return Tracked(masks_F, measure(truth.sample, masks_F, truth.keyframes).scores)


class ScriptedProgress:
    @contextmanager
    def phase(self, name: str, total: float | None = None, then: str = "") -> Iterator[Any]:
        yield SimpleNamespace(advance=lambda count=1: None)


def setting(samples: Sequence[Sample], failed: Sequence[str] = ()) -> tuple[Run, Pools]:
    """Return a run of these samples that bears one failure in ten, and its scripted actors."""
    rollout = SimpleNamespace(max_failed_share=0.1)
    run = SimpleNamespace(
        cfg=SimpleNamespace(rollout=rollout),
        progress=ScriptedProgress(),
        measured_samples=lambda split: samples,
    )
    pools = SimpleNamespace(rollouts=Rollouts(failed), rewards=Rewards(), segmenters=Segmenters())
    return cast(Run, run), cast(Pools, pools)


def results_of(samples: Sequence[Sample], chunk: int) -> list[list[Result]]:
    run, pools = setting(samples)
    masking = PointingPolicy(pools)
    return list(measured(run, pools, masking, samples, "test", "title", chunk=chunk))


def test_results_do_not_depend_on_chunks() -> None:
    samples = [sample(number) for number in range(5)]
    for chunk in (1, 2, 5):
        chunks = results_of(samples, chunk)
        results = []
        for part in chunks:
            results += part
        uids = sorted(result.sample.uid for result in results)
        assert uids == [sample.uid for sample in samples]
        for result in results:
            # One of two frames is right, and a reward comes with every episode.
            assert result.j == 0.5
            assert result.f == 0.5
            assert result.total == 1.0
    # Pieces depend on the samples alone; the last one is the first to be there.
    assert [len(part) for part in results_of(samples, 2)] == [1, 2, 2]
    assert [result.sample.uid for result in results_of(samples, 2)[1]] == ["v/2", "v/3"]


@pytest.mark.parametrize("size", [1, WHOLE_BYTES])
def test_short_videos_are_measured_together_and_long_ones_in_the_order_of_arrival(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "decoded_bytes", lambda video: size)
    other = replace(VIDEO, uid="w")
    samples = [sample(0), sample(1), sample(2), sample(3)]
    samples[1] = replace(samples[1], uid="w/1", video=other)
    samples[3] = replace(samples[3], uid="w/3", video=other)
    uids = []
    for part in results_of(samples, 5):
        uids.append([result.sample.uid for result in part])
    if size == WHOLE_BYTES:
        assert uids == [["w/1", "w/3"], ["v/0", "v/2"]]
    else:
        assert uids == [["v/0", "v/2", "w/1", "w/3"]]


@pytest.mark.parametrize("chunk", [1, 3])
def test_playing_waits_while_too_many_groups_are_under_way(chunk: int) -> None:
    samples = [sample(number) for number in range(20)]
    run, pools = setting(samples)
    slow = Segmenters(slow=True)
    pools.segmenters = slow  # type: ignore[misc, assignment]
    found = list(measured(run, pools, PointingPolicy(pools), samples, "test", "title", chunk=chunk))
    assert sum(len(part) for part in found) == 20
    # Two chunks, and the piece that was one too many.
    assert 2 * chunk <= slow.under_way <= 3 * chunk


def test_an_error_of_a_segmenter_ends_the_evaluation() -> None:
    def broken(tasks: Tasks) -> list[list[Tracked]]:
        raise ValueError("v.mp4: the video stops after frame 3")

    samples = [sample(number) for number in range(20)]
    run, pools = setting(samples)
    pools.segmenters.wait_for = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(ValueError, match="stops after frame 3"):
        list(measured(run, pools, PointingPolicy(pools), samples, "test", "title", chunk=1))


def test_the_sink_in_memory_keeps_the_order_of_the_samples() -> None:
    samples = [sample(number) for number in range(4)]
    run, pools = setting(samples)
    evaluation = evaluate(run, pools, PointingPolicy(pools), "test", "title", repeats=2)
    uids = [result.sample.uid for result in evaluation.results]
    assert uids == ["v/0", "v/0", "v/1", "v/1", "v/2", "v/2", "v/3", "v/3"]
    assert evaluation.mean("jf") == 50.0
    assert evaluation.mean("reward") == 1.0


def test_hidden_truth_is_predicted_and_neither_paid_nor_measured() -> None:
    samples = [sample(0), sample(1, hidden=True)]
    run, pools = setting(samples)
    [chunk] = measured(run, pools, PointingPolicy(pools), samples, "test", "title", chunk=5)
    public, hidden = chunk
    assert public.scores["J"] == 0.5
    assert hidden.masks_F == (LEFT, None)
    assert hidden.scores == {}
    assert hidden.reward is None
    assert cast(Any, pools.rewards).submitted == ["v/0"]


def test_a_failure_within_the_bound_counts_as_an_empty_answer() -> None:
    samples = [sample(number) for number in range(10)]
    run, pools = setting(samples, failed=["v/3"])
    evaluation = evaluate(run, pools, PointingPolicy(pools), "test", "title")
    failed = evaluation.results[3]
    assert failed.jf == 0.0
    assert failed.total == 0.0
    assert evaluation.mean("jf") == pytest.approx(45.0)


def test_too_many_failures_stop_playing_after_the_finished_chunks() -> None:
    samples = [sample(number) for number in range(10)]
    run, pools = setting(samples, failed=["v/7", "v/5"])
    finished = []
    with pytest.raises(RuntimeError, match="2 of 10 episodes failed"):
        for chunk in measured(run, pools, PointingPolicy(pools), samples, "test", "title", chunk=1):
            finished += [result.sample.uid for result in chunk]
    assert finished == ["v/9", "v/8", "v/7", "v/6"]
    assert cast(Any, pools.rollouts).played[-1] == "v/5"
