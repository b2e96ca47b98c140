"""Whole episodes as JSON, for the log of a run's groups (`ray_jobs.record.group_log`).

Whoever plays a group makes it: a group has tens of thousands of numbers, and the driver has the
groups of all engines to write. So it is compressed as well, with zstd, and stands in the line of
the log as one string in base64: a quarter of the bytes for the groups of `benchmarks/driver.py`.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import pyarrow as pa

from core.types import Episode

# zstd's fastest: engines have other work to do.
CODEC = pa.Codec("zstd", compression_level=1)
# Before what is compressed: its size as JSON.
SIZE = struct.Struct("<Q")
# zstd needs four bytes at least for a block of 128 KiB. A broken size asks for more.
MOST = (1 << 17) // 4


def pack_episodes(episodes: Sequence[Episode]) -> bytes:
    """Return episodes as compressed JSON in base64."""
    plain = episodes_json(episodes)
    packed = SIZE.pack(len(plain)) + CODEC.compress(plain, asbytes=True)
    return base64.b64encode(packed)


def unpack_episodes(text: str) -> Any:
    """Return what `pack_episodes` packed, as lists and dicts.

    Raises:
        ValueError: the text is broken.
    """
    packed = base64.b64decode(text, validate=True)
    if len(packed) < SIZE.size:
        raise ValueError("packed episodes are cut")
    [size] = SIZE.unpack_from(packed)
    if size > MOST * len(packed):
        raise ValueError(f"packed episodes announce {size} bytes")
    try:
        plain = CODEC.decompress(packed[SIZE.size :], decompressed_size=size, asbytes=True)
    except (OSError, MemoryError) as error:
        raise ValueError(f"packed episodes are broken: {error}") from error
    return json.loads(plain)


def episodes_json(episodes: Sequence[Episode]) -> bytes:
    """Return episodes as JSON, token ids and log-probs exactly as they are."""
    try:
        _check_finite(episodes)
        # Many times faster.
        return msgspec.json.encode(episodes, enc_hook=_plain)
    except (ValueError, OverflowError):
        # The json module alone keeps nan, infinity, lone surrogates and huge integers as they are.
        return json.dumps(msgspec.to_builtins(episodes, enc_hook=_plain)).encode()


def _check_finite(episodes: Sequence[Episode]) -> None:
    """Raise ValueError if a number is infinite or nan, which msgspec would write as null."""
    for episode in episodes:
        json.dumps(msgspec.to_builtins(episode.answer, enc_hook=_plain), allow_nan=False)
        for turn in episode.turns:
            if not math.isfinite(sum(turn.logprobs)):
                raise ValueError("a log-prob is not finite")


def _plain(value: Any) -> Any:
    """Return numbers of numpy, or many at once, as numbers of Python."""
    return value.tolist()
