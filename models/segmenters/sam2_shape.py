"""Sizes of SAM 2 models: the official ones and a tiny one. Numbers only, without torch."""

from __future__ import annotations

from dataclasses import dataclass

# Widths of the mask decoder that SAM2Base fixes.
DECODER_MLP = 2048
DECODER_HEADS = 8


@dataclass(frozen=True)
class Shape:
    """Sizes of a SAM 2 model. Defaults are those shared by the official SAM 2.1 models.

    Attributes:
        embed_dim: width of the image encoder's first stage, doubled at each of the three others.
        num_heads: attention heads of the first stage, doubled likewise.
        stages: blocks of each stage.
        global_att_blocks: blocks with attention over the whole image.
        window_spec: side of the attention windows of each stage.
        window_background: size of the position embedding's background.
        image_size: side of the square input, in pixels.
        hidden: D, width of all parts after the image encoder.
        memory: channels of a frame's memory.
        memory_layers: layers of the memory attention.
        memory_mlp, decoder_mlp: widths of their MLPs.
        decoder_heads: attention heads of the mask decoder.
        num_maskmem: remembered frames.
        multimask: three masks for an ambiguous prompt and for tracked frames; else always one mask.
        version: official version. 2.1 adds an embedding to the memory of an absent object, and the
            distance in time to the object pointers.
        dense_prompt: write prompts into the low-resolution mask input as well (this project's tiny
            model).
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    global_att_blocks: tuple[int, ...]
    window_spec: tuple[int, ...] = (8, 4, 14, 7)
    window_background: tuple[int, int] = (7, 7)
    image_size: int = 1024
    hidden: int = 256
    memory: int = 64
    memory_layers: int = 4
    memory_mlp: int = 2048
    decoder_mlp: int = DECODER_MLP
    decoder_heads: int = DECODER_HEADS
    num_maskmem: int = 7
    multimask: bool = True
    version: str = "2.1"
    dense_prompt: bool = False


# From sam2/configs/sam2.1/sam2.1_hiera_*.yaml; those of 2.0 have the same sizes.
OFFICIAL = {
    "hiera_t": Shape(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "hiera_s": Shape(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "hiera_b+": Shape(
        112,
        2,
        (2, 3, 16, 3),
        (12, 16, 20),
        window_background=(14, 14),
    ),
    "hiera_l": Shape(
        144,
        2,
        (2, 6, 36, 4),
        (23, 33, 43),
        window_spec=(8, 4, 16, 8),
    ),
}

TINY = Shape(
    embed_dim=24,
    num_heads=1,
    stages=(1, 2, 3, 1),
    global_att_blocks=(5,),
    window_spec=(8, 4, 8, 4),
    image_size=128,
    hidden=64,
    memory=16,
    memory_layers=2,
    memory_mlp=256,
    decoder_mlp=256,
    multimask=False,
    dense_prompt=True,
)
