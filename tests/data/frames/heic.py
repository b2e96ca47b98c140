"""HEIC photos of tiles as phones write them, made for tests."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np

from tests.data.frames.test_drawn_videos import HEIGHT, WIDTH


def box(kind: bytes, *parts: bytes) -> bytes:
    """Return a box of ISO 14496-12."""
    content = b"".join(parts)
    return (8 + len(content)).to_bytes(4) + kind + content


def full(kind: bytes, version: int, *parts: bytes) -> bytes:
    """Return a box with a version and no flags."""
    return box(kind, bytes([version, 0, 0, 0]), *parts)


def u16(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(2) for number in numbers)


def u32(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4) for number in numbers)


def coded(image_HWC: np.ndarray) -> tuple[bytes, bytes]:
    """Return a picture as HEVC, with lengths, and the box of its parameters."""
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        # With B-frames, x265 gives a single picture a decoding time from memory not set.
        options = {"x265-params": "log-level=none:bframes=0"}
        stream = container.add_stream("libx265", rate=1, options=options)
        stream.height, stream.width = image_HWC.shape[:2]
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image_HWC, format="rgb24")))
        container.mux(stream.encode())
    data = file.getvalue()
    at = data.index(b"hvcC") - 4
    parameters = data[at : at + int.from_bytes(data[at : at + 4])]
    with av.open(io.BytesIO(data)) as container:
        packet = next(container.demux(video=0))
        return bytes(packet), parameters


def write_heic(path: Path, tiles: list[np.ndarray], rows: int, columns: int) -> None:
    """Write tiles, in rows, as one photo."""
    pictures = [coded(tile_HWC) for tile_HWC in tiles]
    grid_id = len(tiles) + 1
    ids = range(1, grid_id)
    grid = bytes([0, 0, rows - 1, columns - 1]) + u16(columns * WIDTH, rows * HEIGHT)
    entries = [full(b"infe", 2, u16(number, 0), b"hvc1\0") for number in ids]
    entries.append(full(b"infe", 2, u16(grid_id, 0), b"grid\0"))
    sizes = full(b"ispe", 0, u32(WIDTH, HEIGHT))
    whole = full(b"ispe", 0, u32(columns * WIDTH, rows * HEIGHT))
    properties = box(b"ipco", pictures[0][1], sizes, whole)
    owners = [u16(number) + bytes([2, 0x81, 2]) for number in ids]
    owners.append(u16(grid_id) + bytes([1, 3]))
    links = full(b"ipma", 0, u32(grid_id), *owners)
    parts = [grid, *(data for data, _ in pictures)]

    def meta(start: int) -> bytes:
        places = []
        at = start
        for number, part in zip([grid_id, *ids], parts, strict=True):
            places.append(u16(number, 0, 1) + u32(at, len(part)))
            at += len(part)
        return full(
            b"meta",
            0,
            full(b"hdlr", 0, u32(0), b"pict", bytes(13)),
            full(b"pitm", 0, u16(grid_id)),
            full(b"iloc", 0, bytes([0x44, 0]), u16(grid_id), *places),
            full(b"iinf", 0, u16(grid_id), *entries),
            full(b"iref", 0, box(b"dimg", u16(grid_id, len(tiles), *ids))),
            box(b"iprp", properties, links),
        )

    head = box(b"ftyp", b"heic", u32(0), b"mif1heic")
    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + box(b"mdat", *parts))
