"""Prefix-tree rows against a row for each episode, interleaved in one run: `python benchmarks/learner.py [--quick]`.

Forward and backward of one GRPO group in the shapes of the three systems at 1/scale of their token counts, random
weights, fp32, one thread; unless --quick ReVSeg at its real size as well (once, minutes). The rows are in their
fastest form: one unpadded episode at a time, causal attention without a mask, the head only where a token is trained.
"token limit" is G (P + R) / (P + G R), the ratio of token counts; "FLOP limit" the ratio of the counted products,
attention included, a causal one as half a square. "tokens/s" are those of the rows, G (P + R), over the tree's time.
On a GPU (not yet run there to its end): bf16, wall time, peak memory, and MFU = counted operations of the tree's pass /
(its seconds x --peak_tflops); causal products are counted whole there. `--model 3b` takes the shape of Qwen2.5-VL-3B,
with gradient checkpointing, instead of a model that a CPU can run.
Prints a table; figures are ratios within the run, so a slow or busy machine moves both sides.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from core import batch, grpo
from core.types import End, Episode, Group, Media, MediaTable, Turn, View
from models.policy import tree_attention
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
    """Token counts at full size: `images` of `cell` x `cell` tokens in the prompt, `key` of `key_cell` in a branch."""

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


MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # text and vision of a Qwen2.5-VL
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
}


def build_model(folder: Path, name: str) -> None:
    """A random Qwen2.5-VL of this shape, with its image processor."""
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessor,
    )

    text, vision = MODELS[name]
    rope = {"type": "mrope", "rope_type": "default", "rope_theta": 1e6} | text["rope_scaling"]
    config = Qwen2_5_VLConfig(
        text_config=text | {"max_position_embeddings": 32768, "rope_scaling": rope},
        vision_config=vision
        | {
            "out_hidden_size": text["hidden_size"],
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 112,
            "tokens_per_second": 2,
        },
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


def make_group(shape: Shape, scale: int, rng: np.random.Generator) -> tuple[Group, MediaTable]:
    """A group of random episodes; every side of an image shrinks by sqrt(scale), every text by scale."""
    pixels: MediaTable = {}

    def image(cell: int, name: str) -> tuple[list[int], Media]:
        side = max(1, round(cell / scale**0.5))
        pixels[name] = rng.integers(0, 256, (28 * side, 28 * side, 3), dtype=np.uint8)
        return [START, *[IMAGE] * side**2, STOP], Media(name, View(0, 28 * side, 28 * side))

    def text(count: int) -> list[int]:
        return rng.integers(0, WORDS, max(1, count // scale)).tolist()

    prompt = text(shape.text)
    shown = []
    for i in range(shape.images):
        ids, media = image(shape.cell, f"prompt {i}")
        prompt += ids
        shown.append(media)
    episodes = []
    for g in range(shape.group):
        answer = text(shape.answer // (shape.key + 1))
        turns = [
            Turn(tuple(prompt), tuple(answer), (0.0,) * len(answer), "", tuple(shown), True, 0)
        ]
        for k in range(shape.key):
            ids, media = image(shape.key_cell, f"key {g} {k}")
            turns.append(
                Turn(tuple(ids), tuple(answer), (0.0,) * len(answer), "", (media,), True, 0)
            )
        episodes.append(Episode("", tuple(turns), End.DONE))
    return Group("", tuple(episodes), advantages_G=tuple(rng.normal(size=shape.group))), pixels


def row_loss(
    policy: Policy, tree: batch.Tree, row: batch.GroupBatch, pixels: Pixels, media: MediaTable
) -> None:
    """One episode in a row of its own, through the model's plain causal attention."""
    device = policy.banned_V.device
    patches, grid = pixels([media[d] for d in row.images])
    outputs = policy.vlm.model(
        input_ids=torch.as_tensor(row.ids_T, device=device)[None],
        position_ids=torch.as_tensor(row.positions_3T, device=device)[:, None],
        attention_mask=None,
        mm_encoder_outputs=policy._images(row, patches.to(device), grid.to(device)),
        use_cache=False,
    )
    hidden_ND = outputs.last_hidden_state[0][torch.as_tensor(row.source_N, device=device)]
    logprob_N, _ = policy.vlm.lm_head(
        hidden_ND, torch.as_tensor(row.target_N, device=device), policy.banned_V
    )
    (logprob_N * torch.as_tensor(row.advantage_N, device=device)).sum().backward()


def attend(policy: Policy, attention: str) -> None:
    policy.attention = attention
    policy.vlm.set_attn_implementation({"text_config": attention, "vision_config": "sdpa"})


def timed(work: Callable[[], None]) -> float:
    """CPU seconds; on a GPU wall seconds."""
    if not GPU:
        begin = time.process_time()
        work()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def peak_gib(work: Callable[[], None]) -> float:
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**30


def _attention(
    q: Any, k: Any, v: Any, dropout: float = 0.0, causal: bool = False, *_: Any, **__: Any
) -> int:
    """Operations of two products for each query head; PyTorch's own count knows no grouped heads."""
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
    return 5 * _attention(q, k, v, causal=causal) // 2  # five products where the forward has two


def counted(work: Callable[[], None]) -> tuple[float, int]:
    """CPU seconds, and floating-point operations of matrix products and attention."""
    aten = torch.ops.aten
    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    for kind in ("flash", "efficient", "cudnn"):  # of a GPU
        mapping[getattr(aten, f"_scaled_dot_product_{kind}_attention")] = lambda q, k, v, *_, **__: (
            _attention(q, k, v)
        )
        mapping[getattr(aten, f"_scaled_dot_product_{kind}_attention_backward")] = (
            lambda d, q, k, v, *_, **__: _attention_backward(d, q, k, v, None, None)
        )
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        seconds = timed(work)
    return seconds, int(counter.get_total_flops())


def measure(
    policy: Policy, pixels: Pixels, shape: Shape, scale: int, repeats: int, peak_tflops: float = 0.0
) -> str:
    """One line of the table; with no repeats the times are those of the pass that counts the operations."""
    group, media = make_group(shape, scale, np.random.default_rng(0))
    credit = grpo.credit(group, per_turn=False, std=True, eps=1e-6)
    (tree,) = batch.trees(group, 0, credit, [1.0] * shape.group, 0)
    whole = batch.build_row([tree], policy.layout)
    singles = [
        batch.build_row([batch.replace(tree, branches=(b,))], policy.layout) for b in tree.branches
    ]

    def as_tree() -> None:
        logprob_N = policy(whole, *pixels([media[d] for d in whole.images])).logprob_N
        (logprob_N * torch.as_tensor(whole.advantage_N, device=logprob_N.device)).sum().backward()

    def as_rows() -> None:
        of_trees = policy.attention
        attend(policy, "sdpa")
        for single in singles:
            row_loss(policy, tree, single, pixels, media)
        attend(policy, of_trees)

    chosen = policy.attention
    attend(policy, tree_attention.SPLIT)  # operations of flex_attention are not counted
    # also warms both up
    (first_rows, rows_flops) = counted(as_rows)
    (first_tree, tree_flops) = counted(as_tree)
    attend(policy, chosen)
    if GPU:
        as_tree()  # compiles flex_attention
    flop_limit = rows_flops / tree_flops
    pairs = [(timed(as_rows), timed(as_tree)) for _ in range(repeats)] or [(first_rows, first_tree)]
    ratios = sorted(a / b for a, b in pairs)
    prompt = len(tree.prompt_ids)
    branch = sum(len(b.ids_R) for b in tree.branches) / shape.group
    limit = shape.group * (prompt + branch) / (prompt + shape.group * branch)
    rows_s, tree_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(ratios)
    extra = ""
    if GPU:
        extra = f" {tree_flops / tree_s / peak_tflops / 1e12:.1%} | {peak_gib(as_rows):.1f} | {peak_gib(as_tree):.1f} |"
    return (
        f"| {shape.name} /{scale} | {prompt} | {branch:.0f} | {shape.group} | {rows_s:.2f} | {tree_s:.2f} "
        f"| {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) | {limit:.2f} | {ratio / limit:.0%} "
        f"| {flop_limit:.2f} | {ratio / flop_limit:.0%} | {shape.group * (prompt + branch) / tree_s:.0f} |"
        + extra
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peak_tflops", type=float, default=989.0, help="of the GPU in bf16 (H200: 989)"
    )
    parser.add_argument("--quick", action="store_true", help="without ReVSeg at full size")
    parser.add_argument("--model", choices=MODELS, default="small")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder), options.model)
        place: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16"} if GPU else {}
        policy = Policy(folder, allowed_ids=range(WORDS), **place)
        pixels = Pixels(folder)
        if options.model != "small":
            policy.vlm.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        columns = [
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
        columns += ["MFU", "rows, GiB", "tree, GiB"] if GPU else []
        print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
        for shape in SHAPES:
            print(
                measure(policy, pixels, shape, options.scale, options.repeats, options.peak_tflops),
                flush=True,
            )
        if not options.quick:
            policy.vlm.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
            print(measure(policy, pixels, SHAPES[0], 1, 0, options.peak_tflops), flush=True)


if __name__ == "__main__":
    main()
