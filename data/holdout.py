"""Training videos that are kept for watching a run.

The best checkpoint is chosen on a watched split. Where a data set has no labelled split beside the
reported one, a share of the training videos is held out: `data.holdout` is the share, and the split
name `holdout` reads them. Whole videos are held out, chosen by a hash of their names: the same ones
in every run, whatever else is in the data set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from core.types import Sample

# The name of the held-out split, a value of `data.eval_split`.
HOLDOUT = "holdout"

# The hash is one of this many numbers.
NUMBERS = 1 << 64


def is_held_out(video_uid: str, share: float) -> bool:
    """Return True for the videos to hold out, a share of all on average."""
    return number_of(video_uid) < share * NUMBERS


def number_of(uid: str) -> int:
    """Return the hash of a name, below NUMBERS."""
    digest = hashlib.blake2b(uid.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def training_part(samples: Sequence[Sample], share: float) -> list[Sample]:
    """Return the samples to train on, in their order.

    Raises:
        ValueError: all videos are held out.
    """
    kept = [sample for sample in samples if not is_held_out(sample.video.uid, share)]
    if samples and not kept:
        raise ValueError(f"data.holdout={share:g}: no training video is left; give a smaller share")
    return kept


def held_out_part(samples: Sequence[Sample], share: float) -> list[Sample]:
    """Return the samples to watch, shuffled by the hash of their names.

    `train.eval_samples` measures the first ones: in this order they come from all data sets of a
    mix.

    Raises:
        ValueError: no video is held out.
    """
    kept = [sample for sample in samples if is_held_out(sample.video.uid, share)]
    if not kept:
        videos = len({sample.video.uid for sample in samples})
        raise ValueError(
            f"data.holdout={share:g}: none of {videos} training videos is held out; give a larger "
            "share"
        )
    return sorted(kept, key=lambda sample: number_of(sample.uid))
