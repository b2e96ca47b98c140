"""Prefix-tree rows against a row for each episode: `python -m benchmarks.learner [--quick]`.

Forward and backward of one GRPO group in the shapes of the three systems at 1/scale of their token
counts, random weights, fp32, one thread; unless --quick ReVSeg at its real size as well (once,
minutes).
The rows are in their fastest form: one unpadded episode at a time, causal attention without a mask,
the head only at trained tokens. Both sides take turns in one run, so a slow or busy machine moves
both.

"token limit" is G (P + R) / (P + G R), the ratio of token counts. "FLOP limit" is the ratio of the
counted products, attention included, a causal one as half a square. "tokens/s" are those of the
rows, G (P + R), over the tree's time.

On a GPU (not yet run there to its end): bf16, wall time, peak memory, and MFU = counted operations
of the tree's pass / (its seconds x --peak_tflops); causal products are counted whole there.
`--model 3b` or `7b` takes the shape of a Qwen2.5-VL, with gradient checkpointing, instead of a
model for a CPU.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import argument_parser, cpu_seconds, spread
from core import batch, grpo
from core.types import End, Episode, Group, Media, MediaTable, Turn, View
from models.policy import tree_attention, window_attention
from models.policy.pixels import Pixels
from models.policy.policy import Policy

GPU = torch.cuda.is_available()
DTYPE = torch.bfloat16 if GPU else torch.float32
IMAGE = 500
START = 501
STOP = 502
WORDS = 480


@dataclass(frozen=True)
class Shape:
    """Token counts at full size.

    Attributes:
        name: the system.
        group: number of episodes.
        images: images in the prompt, of `cell` x `cell` tokens each.
        cell: see `images`.
        text: text in the prompt.
        answer: all completions of an episode.
        key: images in a branch, of `key_cell` x `key_cell` tokens each.
        key_cell: see `key`.
    """

    name: str
    group: int
    images: int
    cell: int
    text: int
    answer: int
    key: int
    key_cell: int


SHAPES = (
    Shape("ReVSeg", 8, 16, 16, 150, 250, 1, 30),
    Shape("VideoSeg-R1", 8, 12, 18, 340, 90, 0, 0),
    Shape("VideoSEG-O3", 4, 15, 7, 200, 560, 2, 18),
)


# Text and vision settings of a Qwen2.5-VL.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "small": (
        {
            "vocab_size": 512,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [8, 12, 12]},
        },
        {
            "depth": 4,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_heads": 4,
            "fullatt_block_indexes": [1, 3],
        },
    ),
    "3b": (
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rope_scaling": {"mrope_section": [16, 24, 24]},
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
    "7b": (
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "rope_scaling": {"mrope_section": [16, 24, 24]},
        },
        {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
    ),
}


def build_model(folder: Path, name: str) -> None:
    """Save a random Qwen2.5-VL of this shape, with its image processor."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessor,
    )

    text, vision = MODELS[name]
    rope = {"type": "mrope", "rope_type": "default", "rope_theta": 1e6, **text["rope_scaling"]}
    common_vision = {
        "out_hidden_size": text["hidden_size"],
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "window_size": 112,
        "tokens_per_second": 2,
    }
    config = Qwen2_5_VLConfig(
        text_config={**text, "max_position_embeddings": 32768, "rope_scaling": rope},
        vision_config={**vision, **common_vision},
        image_token_id=IMAGE,
        video_token_id=503,
        vision_start_token_id=START,
        vision_end_token_id=STOP,
    )
    torch.manual_seed(0)
    with torch.device("cuda" if GPU else "cpu"):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=DTYPE)
    model.save_pretrained(folder)
    Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=2**24).save_pretrained(folder)


class GroupMaker:
    """Random groups: every side of an image shrinks by sqrt(scale), every text by scale."""

    def __init__(self, shape: Shape, scale: int, rng: np.random.Generator) -> None:
        self.shape = shape
        self.scale = scale
        self.rng = rng
        self.pixels: MediaTable = {}

    def image(self, cell: int, name: str) -> tuple[list[int], Media]:
        side = max(1, round(cell / self.scale**0.5))
        size = 28 * side
        shape = (size, size, 3)
        self.pixels[name] = self.rng.integers(0, 256, shape, dtype=np.uint8)
        ids = [START, *[IMAGE] * side**2, STOP]
        return ids, Media(name, View(0, size, size))

    def text(self, count: int) -> list[int]:
        length = max(1, count // self.scale)
        ids: list[int] = self.rng.integers(0, WORDS, length).tolist()
        return ids

    def episode(self, number: int, prompt: Sequence[int], shown: Sequence[Media]) -> Episode:
        answer = self.text(self.shape.answer // (self.shape.key + 1))
        turns = [make_turn(prompt, answer, shown)]
        for k in range(self.shape.key):
            ids, media = self.image(self.shape.key_cell, f"key {number} {k}")
            turns.append(make_turn(ids, answer, [media]))
        return Episode("", tuple(turns), End.DONE)

    def group(self) -> Group:
        prompt = self.text(self.shape.text)
        shown = []
        for number in range(self.shape.images):
            ids, media = self.image(self.shape.cell, f"prompt {number}")
            prompt += ids
            shown.append(media)
        episodes = [self.episode(g, prompt, shown) for g in range(self.shape.group)]
        advantages_G = tuple(self.rng.normal(size=self.shape.group))
        return Group("", tuple(episodes), advantages_G=advantages_G)


def make_turn(prompt: Sequence[int], answer: Sequence[int], media: Sequence[Media]) -> Turn:
    logprobs = (0.0,) * len(answer)
    return Turn(tuple(prompt), tuple(answer), logprobs, "", tuple(media), True, 0)


def learn_tree(policy: Policy, row: batch.GroupBatch, pixels: Pixels, media: MediaTable) -> None:
    """The whole group in one row."""
    patches, grid = pixels([media[digest] for digest in row.images])
    logprob_N = policy(row, patches, grid).logprob_N
    advantage_N = torch.as_tensor(row.advantage_N, device=logprob_N.device)
    (logprob_N * advantage_N).sum().backward()


def learn_row(policy: Policy, row: batch.GroupBatch, pixels: Pixels, media: MediaTable) -> None:
    """One episode in a row of its own, through the model's plain causal attention."""
    device = policy.banned_V.device
    patches, grid = pixels([media[digest] for digest in row.images])
    outputs = policy.vlm.model(
        input_ids=torch.as_tensor(row.ids_T, device=device)[None],
        position_ids=torch.as_tensor(row.positions_3T, device=device)[:, None],
        attention_mask=None,
        mm_encoder_outputs=policy._image_features(row, patches.to(device), grid.to(device)),
        use_cache=False,
    )
    source_N = torch.as_tensor(row.source_N, device=device)
    target_N = torch.as_tensor(row.target_N, device=device)
    hidden_ND = outputs.last_hidden_state[0][source_N]
    logprob_N, _ = policy.vlm.lm_head(hidden_ND, target_N, policy.banned_V)
    (logprob_N * torch.as_tensor(row.advantage_N, device=device)).sum().backward()


def attend(policy: Policy, attention: str) -> None:
    """Choose the attention of the language model; the vision tower keeps its own."""
    policy.attention = attention
    policy.vlm.set_attn_implementation({"text_config": attention})


def timed(work: Callable[[], None]) -> float:
    """CPU seconds; on a GPU wall seconds."""
    if not GPU:
        return cpu_seconds(work)
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_gib(work: Callable[[], None]) -> float:
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**30


def _attention(
    q: Any,
    k: Any,
    v: Any,
    dropout: float = 0.0,
    causal: bool = False,
    *_: Any,
    **__: Any,
) -> int:
    """Operations of two products for each query head; PyTorch's count lacks grouped heads."""
    batch_size, heads, queries, width = q
    return int(4 * batch_size * heads * queries * k[2] * width) // (1 + causal)


def _attention_backward(
    d: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    norm: Any,
    dropout: float = 0.0,
    causal: bool = False,
    **_: Any,
) -> int:
    # Five products, the forward has two.
    return 5 * _attention(q, k, v, causal=causal) // 2


def _gpu_attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return _attention(q, k, v)


def _gpu_attention_backward(
    d: Any,
    q: Any,
    k: Any,
    v: Any,
    *_: Any,
    **__: Any,
) -> int:
    return _attention_backward(d, q, k, v, None, None)


def counted(work: Callable[[], None]) -> tuple[float, int]:
    """Seconds, and floating-point operations of matrix products and attention."""
    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    for kind in ("flash", "efficient", "cudnn"):
        forward = getattr(aten, f"_scaled_dot_product_{kind}_attention")
        backward = getattr(aten, f"_scaled_dot_product_{kind}_attention_backward")
        mapping[forward] = _gpu_attention
        mapping[backward] = _gpu_attention_backward
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        seconds = timed(work)
    return seconds, int(counter.get_total_flops())


class Comparison:
    """One group learned from as a tree and as rows."""

    def __init__(self, policy: Policy, pixels: Pixels, shape: Shape, scale: int) -> None:
        self.policy = policy
        self.pixels = pixels
        self.shape = shape
        maker = GroupMaker(shape, scale, np.random.default_rng(0))
        group = maker.group()
        self.media = maker.pixels
        credit = grpo.credit(group, per_turn=False, std=True, eps=1e-6)
        (self.tree,) = batch.trees(group, 0, credit, [1.0] * shape.group, 0)
        self.whole = batch.build_row([self.tree], policy.layout)
        self.singles = []
        for branch in self.tree.branches:
            single = replace(self.tree, branches=(branch,))
            self.singles.append(batch.build_row([single], policy.layout))

    def as_tree(self) -> None:
        learn_tree(self.policy, self.whole, self.pixels, self.media)

    def as_rows(self) -> None:
        of_trees = self.policy.attention
        attend(self.policy, "sdpa")
        for single in self.singles:
            learn_row(self.policy, single, self.pixels, self.media)
        attend(self.policy, of_trees)

    def line(self, scale: int, repeats: int, peak_tflops: float = 0.0) -> str:
        """One line of the table; without repeats the times are those of the counting pass."""
        # The operations of GPU kernels are not counted. Counting also warms both sides up.
        chosen = self.policy.attention
        chosen_tower = window_attention.choose(chosen, self.policy.vlm.dtype)
        attend(self.policy, tree_attention.SPLIT)
        self.policy.vlm.set_attn_implementation({"vision_config": window_attention.WINDOWS})
        first_rows_s, rows_flops = counted(self.as_rows)
        first_tree_s, tree_flops = counted(self.as_tree)
        attend(self.policy, chosen)
        self.policy.vlm.set_attn_implementation({"vision_config": chosen_tower})
        if GPU:
            # Compiles flex_attention.
            self.as_tree()

        rows_times = [] if repeats else [first_rows_s]
        tree_times = [] if repeats else [first_tree_s]
        for _ in range(repeats):
            rows_times.append(timed(self.as_rows))
            tree_times.append(timed(self.as_tree))
        ratios = [rows_s / tree_s for rows_s, tree_s in zip(rows_times, tree_times, strict=True)]
        tree_s = statistics.median(tree_times)

        group = self.shape.group
        prompt = len(self.tree.prompt_ids)
        branch = sum(len(leaf.ids_R) for leaf in self.tree.branches) / group
        token_limit = group * (prompt + branch) / (prompt + group * branch)
        flop_limit = rows_flops / tree_flops
        ratio = statistics.median(ratios)
        cells = [
            f"{self.shape.name} /{scale}",
            f"{prompt}",
            f"{branch:.0f}",
            f"{group}",
            f"{statistics.median(rows_times):.2f}",
            f"{tree_s:.2f}",
            spread(ratios),
            f"{token_limit:.2f}",
            f"{ratio / token_limit:.0%}",
            f"{flop_limit:.2f}",
            f"{ratio / flop_limit:.0%}",
            f"{group * (prompt + branch) / tree_s:.0f}",
        ]
        if GPU:
            cells.append(f"{tree_flops / tree_s / peak_tflops / 1e12:.1%}")
            cells.append(f"{peak_gib(self.as_rows):.1f}")
            cells.append(f"{peak_gib(self.as_tree):.1f}")
        return table_row(cells)


COLUMNS = [
    "shape",
    "P",
    "R",
    "G",
    "rows, s",
    "tree, s",
    "rows / tree (spread)",
    "token limit",
    "share of it",
    "FLOP limit",
    "share of it",
    "tokens/s",
]
GPU_COLUMNS = ["MFU", "rows, GiB", "tree, GiB"]


def table_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def checkpoint_gradients(policy: Policy) -> None:
    settings = {"use_reentrant": False}
    policy.vlm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peak_tflops", type=float, default=989.0, help="of the GPU in bf16 (H200)"
    )
    parser.add_argument("--quick", action="store_true", help="without ReVSeg at full size")
    parser.add_argument("--model", choices=MODELS, default="small")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = COLUMNS + GPU_COLUMNS if GPU else COLUMNS
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder), options.model)
        place: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16"} if GPU else {}
        policy = Policy(folder, allowed_ids=range(WORDS), **place)
        pixels = Pixels(folder)
        if options.model != "small":
            checkpoint_gradients(policy)
        print(table_row(columns) + "\n" + "|---" * len(columns) + "|")
        for shape in SHAPES:
            comparison = Comparison(policy, pixels, shape, options.scale)
            line = comparison.line(options.scale, options.repeats, options.peak_tflops)
            print(line, flush=True)
        if not options.quick:
            checkpoint_gradients(policy)
            comparison = Comparison(policy, pixels, SHAPES[0], 1)
            print(comparison.line(1, 0, options.peak_tflops), flush=True)


if __name__ == "__main__":
    main()
