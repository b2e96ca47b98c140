"""What samples can be used for: to learn from, to measure on, or for demonstrations alone.

Most samples have masks and serve everything. VisionReasoner's images have boxes and points
(`Target.place`), and the dialogues of VideoSEG-O3's SFT mixture are about other tasks
(`Notes.task`). What a job cannot use is refused before an engine starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.splits import MIX, set_of
from configs.schema import Config
from core.types import Sample, System

# Samples of a split or set whose masks are read ahead.
LOOKS = 16


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
        if job != "warm_start" and split == cfg.data.test_split:
            check_measurable(of_split, where)
            continue
        check = check_demonstrable if job == "warm_start" else check_learnable
        for of_set, own in sets_of(cfg, split, of_split).items():
            check(system, own, of_set or where)


def sets_of(cfg: Config, split: str, samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Return the samples of a split by their set, as messages name it; "" is a split by itself."""
    if split != MIX:
        return {"": list(samples)}
    by_set: dict[str, list[Sample]] = {}
    for index, each in enumerate(cfg.data.sets):
        own = [sample for sample in samples if set_of(sample.uid) == each.label]
        by_set[f"data.sets[{index}] ({each.label})"] = own
    return by_set


def check_learnable(system: System, samples: Sequence[Sample], where: str) -> None:
    """Refuse samples without the truth that a system's reward reads.

    Args:
        where: The split or set, for the message.

    Raises:
        ValueError: Samples are about another task, have no masks although the reward needs them,
            or masks that are not public or cannot be read.
    """
    refuse_tasks(samples, where)
    refuse_hidden(samples, where)
    bare = _without_masks(samples)
    if bare is not None and system.needs_masks:
        raise ValueError(
            f"{where}: sample {bare.uid!r} has boxes and points but no masks, which the reward of "
            f"{system.name} needs: train system.name=videoseg_r1 with system.options.answer="
            "box_point and system.options.iou_source=box on it, or take the data set out"
        )
    if bare is None:
        refuse_empty_masks(samples, where)


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


def refuse_hidden(samples: Sequence[Sample], where: str) -> None:
    """Refuse samples without public truth: their empty targets do not mean "none".

    Raises:
        ValueError: There is one.
    """
    hidden = [sample.uid for sample in samples if sample.notes.hidden]
    if hidden:
        raise ValueError(
            f"{where}: the masks of {len(hidden)} of {len(samples)} expressions are not public, "
            f"such as those of {hidden[0]!r}; rewards need them: train on another split"
        )


def refuse_empty_masks(samples: Sequence[Sample], where: str) -> None:
    """Read the masks of a few samples, which the first reward would do after the engines' start.

    Raises:
        ValueError: A mask cannot be read, or no target has any.
    """
    with_targets = [sample for sample in samples if sample.targets]
    looks = with_targets[:: max(len(with_targets) // LOOKS, 1)]
    if looks and not any(_shows_something(sample) for sample in looks):
        raise ValueError(
            f"{where}: no target of {len(looks)} expressions, such as {looks[0].uid!r}, has a mask "
            "in any frame: take masks of the same release as the expressions"
        )


def _shows_something(sample: Sample) -> bool:
    for target in sample.targets:
        for mask in target.masks_F:
            if mask is not None:
                return True
    return False


def _without_masks(samples: Sequence[Sample]) -> Sample | None:
    """Return the first sample with a target without masks; None if there is none."""
    for sample in samples:
        if any(target.place is not None for target in sample.targets):
            return sample
    return None
