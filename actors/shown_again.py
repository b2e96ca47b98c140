"""Pixels of groups from the log of a run, decoded again in Ray tasks.

Nothing is learned from other pixels than the policy was shown: each image is compared with its
digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import ray

from cluster.placement import Placement
from cluster.refs import MediaRef, Ref, results
from core.types import Episode, Media, MediaTable, Video
from data.frames.reading import show_views

# Tasks at a time. They reserve no CPU core: on GPUs all cores of the plan are reserved by actors.
AT_ONCE = 4
# A damaged file may crash its decoder, and with it the process.
RETRIES = 2


def media_of(episodes: Iterable[Episode]) -> list[Media]:
    """Return each image that these episodes were shown, once."""
    found: dict[Media, None] = {}
    for episode in episodes:
        for turn in episode.turns:
            found |= dict.fromkeys(turn.media)
    return list(found)


def decode(video: Video, media: Sequence[Media]) -> MediaTable:
    """Return the pixels of some images of a video.

    Raises:
        ValueError: an image is not the one that was shown, or cannot be read.
    """
    shown = show_views(video, [each.view for each in media])
    pixels: MediaTable = {}
    for before, (now, image_HWC) in zip(media, shown, strict=True):
        if now.digest != before.digest:
            raise ValueError(
                f"{video.path}: frame {before.view.frame} has changed since the policy was shown "
                "it: put the old file back, or remove the folder groups/ of the run, whose steps "
                "since the last checkpoint are then played again"
            )
        pixels[now.digest] = image_HWC
    return pixels


def decode_with_check(video: Video, media: Sequence[Media]) -> tuple[None, MediaTable]:
    """Return nothing, to wait for without fetching pixels, and the result of `decode`."""
    return None, decode(video, media)


def decode_again(
    videos: Sequence[Video], episodes: Sequence[Sequence[Episode]], placement: Placement
) -> list[MediaRef]:
    """Return the pixels of some groups. Raises the errors of `decode`.

    Args:
        videos: the video of each group.
    """
    task = ray.remote(decode_with_check).options(
        num_cpus=0, num_returns=2, max_retries=RETRIES, runtime_env=placement.runtime_env
    )
    checks: list[Ref[None]] = []
    pixels: list[MediaRef] = []
    for video, group in zip(videos, episodes, strict=True):
        if len(checks) >= AT_ONCE:
            results([checks[-AT_ONCE]])
        check, table = task.remote(video, media_of(group))
        checks.append(check)
        pixels.append(table)
    results(checks)
    return pixels
