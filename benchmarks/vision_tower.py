"""Attention of the vision tower: window by window against few batches.

    python -m benchmarks.vision_tower [--rounds N] [--width W] [--threads T] [--quick]

One forward of a Qwen2.5-VL tower of official depth and windows, but narrow, over the images of a
group of ReVSeg: 16 frames of 448 x 448 and 8 of 840 x 840. "calls" are those of PyTorch's
attention. Before: transformers' own way (`sdpa`), one call a window or image. After:
`models.policy.window_attention`. Both take turns in one run, fp32, wall seconds. "equal"
says whether the outputs are the same bit for bit; else the largest difference relative to the
largest output is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)

from benchmarks.measuring import argument_parser, spread
from models.policy.window_attention import WINDOWS

PATCH = 14
HEAD = 80
# (number, side) of the images of a group; the second for a quick look.
GROUP = ((16, 448), (8, 840))
FEW = ((2, 448), (1, 840))

TABLE = ("| attention | calls | s (spread) | equal |", "|---|---|---|---|")


class Calls(TorchFunctionMode):
    """Counts the calls of PyTorch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.count += 1
        return func(*args, **(kwargs or {}))


def build_tower(width: int) -> nn.Module:
    """Return a random tower of official depth; `width` is that of all its heads together."""
    config = Qwen2_5_VLVisionConfig(
        depth=32,
        hidden_size=width,
        intermediate_size=2 * width,
        num_heads=width // HEAD,
        out_hidden_size=width,
        fullatt_block_indexes=[7, 15, 23, 31],
        patch_size=PATCH,
        window_size=112,
    )
    torch.manual_seed(0)
    return Qwen2_5_VisionTransformerPretrainedModel(config).eval()


def images(sizes: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """Return random patches of square images, and their grid."""
    grids = []
    for number, side in sizes:
        grids += [[1, side // PATCH, side // PATCH]] * number
    grid_U3 = torch.tensor(grids)
    total = int(grid_U3.prod(1).sum())
    return torch.randn(total, 3 * 2 * PATCH**2), grid_U3


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=HEAD, help=f"a multiple of {HEAD}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="an eighth of the images")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tower = build_tower(options.width)
    patches, grid_U3 = images(FEW if options.quick else GROUP)
    outputs: dict[str, Tensor] = {}

    @torch.no_grad()
    def forward(attention: str) -> None:
        tower.config._attn_implementation = attention
        outputs[attention] = tower(patches, grid_U3, return_dict=True).pooler_output

    calls = {}
    for attention in ("sdpa", WINDOWS):
        with Calls() as counter:
            forward(attention)
        calls[attention] = counter.count
    seconds: dict[str, list[float]] = {attention: [] for attention in calls}
    for _ in range(options.rounds):
        for attention, found in seconds.items():
            began = time.perf_counter()
            forward(attention)
            found.append(time.perf_counter() - began)

    apart = outputs[WINDOWS] - outputs["sdpa"]
    largest = float(apart.abs().max() / outputs["sdpa"].abs().max())
    print("\n".join(TABLE))
    for attention, found in seconds.items():
        equal = "yes" if largest == 0 else f"{largest:.1e}"
        print(f"| {attention} | {calls[attention]} | {spread(found)} | {equal} |")
    pairs = zip(seconds["sdpa"], seconds[WINDOWS], strict=True)
    ratios = [before / after for before, after in pairs]
    print(f"before / after: {spread(ratios)}")


if __name__ == "__main__":
    main()
