"""The samples of a split or of a mix of data sets, read alike by the driver and reward actors.

samples = read_split(cfg, training_split(cfg))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.schema import Config, SetConfig
from core.types import Sample
from data.bounds import allow_pixels
from data.difficulty import ratings_file, with_ratings
from data.holdout import HOLDOUT, held_out_part, training_part
from data.labelled import on_labelled_frames
from data.load import load_samples
from data.prepare.keep import keep_samples

# The name of the split of all training samples of `data.sets`. No folder can have it by accident,
# since it is the name of a setting.
MIX = "data.sets"


def training_split(cfg: Config) -> str:
    """Return the name of the split for training: the mix, or `data.train_split`."""
    return MIX if cfg.data.sets else cfg.data.train_split


def read_split(cfg: Config, split: str) -> list[Sample]:
    """Read the samples of a split, with difficulty ratings if `difficulty.folder` is given.

    `data.holdout` moves videos of the training split to the split `holdout`. Both are played on
    frames whose truth is known.

    Driver and reward actors both read a split with this function. Rewards depend on difficulty
    only in training, so the training split must be rated; another split is rated if it has a file.

    Args:
        split: A split of `data.root`, `holdout`, or MIX for the sets of `data.sets`, one after the
            other.

    Raises:
        ValueError: As `data.load.load_samples` and `data.difficulty.with_ratings`.
    """
    if split == HOLDOUT:
        known = on_labelled_frames(_stored(cfg, training_split(cfg)))
        return held_out_part(known, cfg.data.holdout)
    if split == training_split(cfg):
        return training_part(on_labelled_frames(_stored(cfg, split)), cfg.data.holdout)
    return _stored(cfg, split)


def _stored(cfg: Config, split: str) -> list[Sample]:
    """Read the samples of a split or of the mix, held-out videos among them."""
    data = cfg.data
    allow_pixels(data.max_pixels)
    if split == MIX:
        mixed: list[Sample] = []
        for index, each in enumerate(data.sets):
            mixed += read_set(cfg, each, f"data.sets[{index}]")
        return mixed

    folder = cfg.difficulty.folder
    samples = load_samples(data.format, data.root, split, data.no_target)
    if split == training_split(cfg) or ratings_file(folder, split).is_file():
        return with_ratings(samples, folder, split)
    return samples


def read_set(cfg: Config, each: SetConfig, where: str) -> list[Sample]:
    """Read one data set of a mix; its label begins the uids of its samples and videos.

    Args:
        where: The key of the set, for messages.

    Raises:
        ValueError: An error of the files, with the set in front.
    """
    allow_pixels(cfg.data.max_pixels)
    try:
        samples = load_samples(each.format, each.root, each.split, each.no_target)
        if each.keep_file:
            samples = keep_samples(samples, Path(each.keep_file))
        samples = with_ratings(samples, cfg.difficulty.folder, each.label)
    except ValueError as error:
        raise ValueError(f"{where} ({each.label}): {error}") from error
    return named_after_set(samples, each.label)


def named_after_set(samples: Sequence[Sample], label: str) -> list[Sample]:
    """Return the samples with "<label>/" before the uids of samples and videos.

    Two sets may call different videos, or different sentences about one, by the same uid.
    """
    named = []
    for sample in samples:
        video = replace(sample.video, uid=f"{label}/{sample.video.uid}")
        named.append(replace(sample, uid=f"{label}/{sample.uid}", video=video))
    return named


def set_of(sample_uid: str) -> str:
    """Return the label of the set of a mixed sample."""
    return sample_uid.partition("/")[0]
