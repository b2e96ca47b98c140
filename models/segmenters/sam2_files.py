"""The official SAM 2 checkpoints: which exist, and which of them a file is.

A file is known by the names and sizes of its weights; its name is the user's own. Read by the
loader, by its error messages and by `ray_jobs.check`. Without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from models.segmenters.sam2_shape import OFFICIAL, Shape

# Settings speak of these versions; README of github.com/facebookresearch/sam2 links the files.
VERSIONS = ("2.0", "2.1")

# Weights of version 2.1 only.
NEW_IN_2_1 = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")

# The image encoder's first weight (its width) and the start of the names of its blocks.
PATCHES = "image_encoder.trunk.patch_embed.proj.weight"
BLOCKS = "image_encoder.trunk.blocks."


@dataclass(frozen=True)
class OfficialFile:
    """One official checkpoint.

    Attributes:
        name: file name at its release.
        version: "2.0" or "2.1".
        size: `segmenter.config`, a key of `sam2_shape.OFFICIAL`.
        parameters: number of weights, in millions.
    """

    name: str
    version: str
    size: str
    parameters: float

    @property
    def shape(self) -> Shape:
        """Sizes of its model."""
        return replace(OFFICIAL[self.size], version=self.version)


FILES = (
    OfficialFile("sam2_hiera_tiny.pt", "2.0", "hiera_t", 38.9),
    OfficialFile("sam2_hiera_small.pt", "2.0", "hiera_s", 46.0),
    OfficialFile("sam2_hiera_base_plus.pt", "2.0", "hiera_b+", 80.8),
    OfficialFile("sam2_hiera_large.pt", "2.0", "hiera_l", 224.4),
    OfficialFile("sam2.1_hiera_tiny.pt", "2.1", "hiera_t", 39.0),
    OfficialFile("sam2.1_hiera_small.pt", "2.1", "hiera_s", 46.1),
    OfficialFile("sam2.1_hiera_base_plus.pt", "2.1", "hiera_b+", 80.9),
    OfficialFile("sam2.1_hiera_large.pt", "2.1", "hiera_l", 224.4),
)


def recognise(where: str, sizes: Mapping[str, Sequence[int]], config: str = "") -> OfficialFile:
    """Return the official checkpoint with these weights.

    Args:
        where: the file's path, for messages.
        sizes: size of each weight, by name.
        config: `segmenter.config`: its size must be this one; empty: any.

    Raises:
        ValueError: not an official checkpoint, one of another size than `config`, or one with
            weights missing.
    """
    if config and config not in OFFICIAL:
        raise ValueError(
            f"segmenter.config: {config!r} is not an official SAM 2 shape; leave it empty (the "
            f"file tells), or choose one of {', '.join(OFFICIAL)}"
        )
    size = _size_of(where, sizes)
    if config and size != config:
        raise ValueError(
            f"segmenter.config={config}: {where} has the shape {size}; leave segmenter.config "
            f"empty, or give one of {_names(config)} as segmenter.path"
        )
    version = _version_of(where, sizes)
    (found,) = [file for file in FILES if (file.version, file.size) == (version, size)]
    return found


def file_names() -> str:
    """Return the names of all official files, for messages."""
    return ", ".join(file.name for file in FILES)


def _names(size: str) -> str:
    return ", ".join(file.name for file in FILES if file.size == size)


def _size_of(where: str, sizes: Mapping[str, Sequence[int]]) -> str:
    if PATCHES not in sizes:
        raise ValueError(
            f"segmenter.path: {where} is no SAM 2 checkpoint: it has no weight {PATCHES}; "
            f"give one of {file_names()}"
        )
    width = sizes[PATCHES][0]
    numbers = {name.split(".")[3] for name in sizes if name.startswith(BLOCKS)}
    for name, shape in OFFICIAL.items():
        if (shape.embed_dim, sum(shape.stages)) == (width, len(numbers)):
            return name
    raise ValueError(
        f"segmenter.path: {where} is no official SAM 2 checkpoint, or a cut one: its image encoder "
        f"has width {width} and {len(numbers)} blocks; give one of {file_names()}"
    )


def _version_of(where: str, sizes: Mapping[str, Sequence[int]]) -> str:
    present = [name for name in NEW_IN_2_1 if name in sizes]
    if present and len(present) < len(NEW_IN_2_1):
        missing = [name for name in NEW_IN_2_1 if name not in sizes]
        raise ValueError(
            f"segmenter.path: {where} has {present[0]} as SAM 2.1 does, but no {missing[0]}: "
            "the file is cut or was changed; download it again"
        )
    return "2.1" if present else "2.0"
