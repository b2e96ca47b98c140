"""The true masks of training samples, looked at before an engine starts."""

from __future__ import annotations

from collections.abc import Sequence

from configs.schema import Config
from core.types import Sample

# Samples of a split whose masks are read ahead.
LOOKS = 16


def check_truth(samples: Sequence[Sample], where: str, needs_masks: bool = True) -> None:
    """Refuse training samples without the true masks that a reward needs.

    Args:
        where: The split and its set, for messages.
        needs_masks: `System.needs_masks`; False lets targets with a place alone pass.

    Raises:
        ValueError: The truth is not public, a mask is missing, or no mask shows anything.
    """
    hidden = [sample.uid for sample in samples if sample.notes.hidden]
    if hidden:
        raise ValueError(
            f"{where}: the masks of {len(hidden)} of {len(samples)} expressions are not public, "
            f"such as those of {hidden[0]!r}; rewards need them: train on another split"
        )

    # Masks are read on access, and the first reward would come after the start of the engines.
    with_targets = [sample for sample in samples if sample.targets]
    looks = with_targets[:: max(len(with_targets) // LOOKS, 1)]
    if looks and not any(_shows_something(sample, needs_masks) for sample in looks):
        raise ValueError(
            f"{where}: no target of {len(looks)} expressions, such as {looks[0].uid!r}, has a mask "
            "in any frame; rewards need masks: train on another data set, or on masks of the same "
            "release as the expressions"
        )


def _shows_something(sample: Sample, needs_masks: bool) -> bool:
    for target in sample.targets:
        if target.place is not None and not needs_masks:
            return True
        for mask in target.masks_F:
            if mask is not None:
                return True
    return False


def check_training_truth(cfg: Config, samples: Sequence[Sample], needs_masks: bool = True) -> None:
    """Check the truth of the training samples, set by set, as `check_truth`.

    Raises:
        ValueError: As `check_truth`.
    """
    if not cfg.data.sets:
        check_truth(samples, f"data.train_split={cfg.data.train_split}", needs_masks)
        return
    for index, each in enumerate(cfg.data.sets):
        own = [sample for sample in samples if sample.uid.startswith(f"{each.label}/")]
        check_truth(own, f"data.sets[{index}] ({each.label})", needs_masks)
