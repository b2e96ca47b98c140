"""What waits in Ray's object store: the pixels of groups, and the answers of actors."""

from __future__ import annotations

from typing import Any

import ray

from core.types import MediaTable

MediaRef = Any  # a Ray ObjectRef of a MediaTable, or the MediaTable itself


def load_media(media: dict[int, MediaRef]) -> MediaTable:
    """The tables of some groups as one: digests name contents, so equal keys hold equal pixels."""
    found: MediaTable = {}
    for ref in media.values():
        found |= ref if isinstance(ref, dict) else ray.get(ref)
    return found


def results(refs: list[Any]) -> list[Any]:
    """`ray.get`, where a user's mistake (ValueError) in an actor is raised as the plain error it was."""
    try:
        return ray.get(refs)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(str(error.cause)) from error
        raise
