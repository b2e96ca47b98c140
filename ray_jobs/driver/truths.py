"""What samples can be used for: to learn from, to measure on, or for demonstrations alone.

Most samples have masks and serve everything. VisionReasoner's images have boxes and points
(`Target.place`), and the dialogues of VideoSEG-O3's SFT mixture are about other tasks
(`Notes.task`). What a job cannot use is refused before an engine starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from configs.schema import Config
from core.types import Sample, System


def check_splits(
    cfg: Config, system: System, samples: Mapping[str, Sequence[Sample]], job: str
) -> None:
    """Refuse splits that a job cannot use.

    Args:
        samples: The splits read by the job, by name. All but `data.test_split` are learned.
        job: "warm_start" demonstrates all of them; others measure `data.test_split`.

    Raises:
        ValueError: A split cannot be used.
    """
    for split, of_split in samples.items():
        where = f"{cfg.data.root}, split {split!r}"
        if job == "warm_start":
            check_demonstrable(system, of_split, where)
        elif split == cfg.data.test_split:
            check_measurable(of_split, where)
        else:
            check_learnable(system, of_split, where)


def check_learnable(system: System, samples: Sequence[Sample], where: str) -> None:
    """Refuse samples without the truth that a system's reward reads.

    Args:
        where: The split or set, for the message.

    Raises:
        ValueError: Samples are about another task, or have no masks although the reward needs them.
    """
    refuse_tasks(samples, where)
    bare = _without_masks(samples)
    if bare is not None and system.needs_masks:
        raise ValueError(
            f"{where}: sample {bare.uid!r} has boxes and points but no masks, which the reward of "
            f"{system.name} needs: train system.name=videoseg_r1 with system.options.answer="
            "box_point and system.options.iou_source=box on it, or take the data set out"
        )


def check_demonstrable(system: System, samples: Sequence[Sample], where: str) -> None:
    """Refuse samples that a system cannot demonstrate, whatever their pixels.

    Raises:
        ValueError: Samples are about a task that the system does not know, or lack needed masks.
    """
    for sample in samples:
        task = sample.notes.task
        if task and task not in system.tasks:
            raise ValueError(
                f"{where}: sample {sample.uid!r} is a dialogue of the task {task!r}, which "
                f"{system.name} does not demonstrate: choose system.name=videoseg_o3, or another "
                "data set"
            )
    others = [sample for sample in samples if not sample.notes.task]
    check_learnable(system, others, where)


def check_measurable(samples: Sequence[Sample], where: str) -> None:
    """Refuse samples on which no figure can be computed, although they have targets.

    Raises:
        ValueError: Samples are about another task, or have no masks.
    """
    refuse_tasks(samples, where)
    bare = _without_masks(samples)
    if bare is not None:
        raise ValueError(
            f"{where}: sample {bare.uid!r} has boxes and points but no masks, so nothing can be "
            "measured on it: train on it through data.sets, and name a data set with masks in "
            "data.format, data.root and data.test_split"
        )


def refuse_tasks(samples: Sequence[Sample], where: str) -> None:
    """Refuse dialogues about other tasks than finding targets.

    Raises:
        ValueError: There is one.
    """
    for sample in samples:
        if sample.notes.task:
            raise ValueError(
                f"{where}: sample {sample.uid!r} is a dialogue of the task {sample.notes.task!r}, "
                "which has no reward and no figure: it serves ray_jobs.warm_start alone"
            )


def _without_masks(samples: Sequence[Sample]) -> Sample | None:
    """Return the first sample with a target without masks; None if there is none."""
    for sample in samples:
        if any(target.place is not None for target in sample.targets):
            return sample
    return None
