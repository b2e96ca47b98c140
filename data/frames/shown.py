"""Images that the policy was shown, read again wherever they are needed.

Views and digests travel, pixels do not: a process reads the frames out of the store of its node,
where those that were just shown still lie. Frames that are gone are decoded again. Nothing is
learned from other pixels than the policy was shown: each image is compared with its digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from core.batch import Tree
from core.pulse import tick
from core.types import Episode, Media, MediaSource, MediaTable
from data.frames.reading import show_views


def media_of(episodes: Iterable[Episode]) -> list[Media]:
    """Return each image that these episodes were shown, once."""
    found: dict[Media, None] = {}
    for episode in episodes:
        for turn in episode.turns:
            found |= dict.fromkeys(turn.media)
    return list(found)


def read_shown(source: MediaSource, media: Iterable[Media]) -> MediaTable:
    """Return the pixels of some images of one source.

    Raises:
        ValueError: an image is not the one that was shown, or cannot be read.
    """
    if isinstance(source, dict):
        return {each.digest: source[each.digest] for each in media}
    wanted = list(media)
    shown = show_views(source, [each.view for each in wanted])
    pixels: MediaTable = {}
    for before, (now, image_HWC) in zip(wanted, shown, strict=True):
        if now.digest != before.digest:
            raise ValueError(
                f"{source.path}: frame {before.view.frame} has changed since the policy was shown "
                "it: put the old file back, or remove the folder groups/ of the run, whose steps "
                "since the last checkpoint are then played again"
            )
        pixels[now.digest] = image_HWC
    return pixels


def images_of_row(forest: Sequence[Tree], sources: Mapping[int, MediaSource]) -> MediaTable:
    """Return the pixels of the images in a row of trees. Raises the errors of `read_shown`.

    Args:
        sources: of each group, by its number.
    """
    wanted: dict[int, dict[Media, None]] = {}
    for tree in forest:
        of_group = wanted.setdefault(tree.group, {})
        of_group |= dict.fromkeys(tree.media)
        for branch in tree.branches:
            of_group |= dict.fromkeys(branch.media)

    pixels: MediaTable = {}
    for group, media in wanted.items():
        pixels |= read_shown(sources[group], media)
        # Frames that have left the store take a while.
        tick()
    return pixels
