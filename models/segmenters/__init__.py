"""The segmenters that there are. One is imported only when it is asked for: it may need what others do not."""

from __future__ import annotations

from pathlib import Path

from models.segmenters.base import Segmenter


def make(
    kind: str,
    path: str,
    config: str = "",
    device: str = "cpu",
    xmem_path: str = "",
    xmem_weights: str = "",
    xmem_size: int = 480,
) -> Segmenter:
    """The segmenter that the configuration asks for (`configs.schema.SegmenterConfig`).

    Raises ValueError for an unknown kind, a missing file and a checkpoint of another architecture.
    """
    if kind == "grabcut":
        from models.segmenters.grabcut import GrabCutSegmenter

        return GrabCutSegmenter()
    if kind == "sam2":
        from models.segmenters import sam2_build
        from models.segmenters.sam2_segmenter import Sam2Segmenter

        model, shape = sam2_build.load(Path(path), config)
        return Sam2Segmenter(model, shape, device)
    if kind == "sam2_xmem":
        from models.segmenters import xmem_segmenter

        xmem = xmem_segmenter.load(
            Path(xmem_path), Path(xmem_weights)
        )  # first: it tells at once what is missing
        return xmem_segmenter.XMemSegmenter(
            make("sam2", path, config, device), xmem, device, xmem_size
        )
    raise ValueError(f"segmenter.kind: {kind!r} is unknown; choose sam2 or grabcut, or sam2_xmem")
