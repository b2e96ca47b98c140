"""A tiny, untrained Qwen2.5-VL or Qwen3-VL with its own small tokenizer, as a Hugging Face folder.

Only its sizes make it tiny: transformers and vLLM load it with their own classes. The vocabulary
holds the bytes, the words of the given text, the numbers up to a keyframe's side in pixels, and the
recurring pieces of the answers as single tokens, so that an answer is short. Every text still
round-trips exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from tiny.school.sizes import QWEN2_5, QWEN3, Sizes

CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PIECES = (
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    '[{"frame_idx": ',
    ', "object description": "',
    '"}]',
    '[{"bbox_2d":[',
    '],"label":"',
)
# Pieces of turns that search a video and draw a mask (`systems.videoseg_o3.traces`). The tags and
# [SEG] stay tokens of their own.
SEARCH_PIECES = (
    "[SEG]",
    "<select>",
    "</select>",
    "<VTG>",
    "</VTG>",
    "<RefSeg>",
    "</RefSeg>",
    '{"start":',
    ',"end":',
    ',"keyframe":',
    "}",
    "Step 1:",
    ". Step 2:",
    ". Step 3:",
    ", seen from ",
    " to ",
    ". Action: see new segment.",
    ". Action: confirmed.",
)
# Qwen2's own splitting of text into words.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "<|im_start|>{{ message['role'] }}{{ '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for piece in message['content'] %}"
    "{% if piece['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in piece %}{{ piece['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)


def build(
    out_dir: Path, samples_of_text: Iterable[str], seed: int = 0, sizes: Sizes = QWEN2_5
) -> None:
    """Write config, processor, tokenizer and random weights (fp32, about 2.4 M parameters)."""
    tokenizer = _tokenizer(samples_of_text, sizes)
    torch.manual_seed(seed)
    model = _model(tokenizer, sizes)
    ids = _control_ids(tokenizer)
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"]],
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
    )
    model.save_pretrained(out_dir)
    processor(tokenizer, sizes).save_pretrained(out_dir)


def processor(tokenizer: Any, sizes: Sizes = QWEN2_5) -> Qwen2_5_VLProcessor | Qwen3VLProcessor:
    """Return a processor that leaves images at their size.

    They must be multiples of the cell, with one token to 1000 pixels a side.
    """
    patches: dict[str, Any] = {"patch_size": sizes.patch, "temporal_patch_size": 2, "merge_size": 2}
    colours: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = Qwen2VLImageProcessor(
        min_pixels=sizes.cell**2, max_pixels=1000 * 1000, **patches, **colours
    )
    if sizes is QWEN3:
        return Qwen3VLProcessor(
            image_processor=images,
            tokenizer=tokenizer,
            video_processor=Qwen3VLVideoProcessor(**patches, **colours),
            chat_template=CHAT_TEMPLATE,
        )
    return Qwen2_5_VLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**patches, **colours),
        chat_template=CHAT_TEMPLATE,
    )


def _tokenizer(samples_of_text: Iterable[str], sizes: Sizes) -> Qwen2Tokenizer:
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    bpe.decoder = decoders.ByteLevel()

    text = ["user\n", "assistant\n", "system\n", " Find it.", "Locate it.", '","', " and"]
    for line in samples_of_text:
        text += [line, " " + line]
    trainer = trainers.BpeTrainer(
        # More than the words need, so that every word becomes one token.
        vocab_size=800,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[],
        show_progress=False,
    )
    bpe.train_from_iterator(text, trainer)
    trained = json.loads(bpe.to_str())["model"]

    tokenizer = Qwen2Tokenizer(
        vocab=trained["vocab"],
        merges=[tuple(merge) for merge in trained["merges"]],
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=32768,
    )
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in CONTROL])
    pieces = list(PIECES)
    if sizes is QWEN3:
        pieces += SEARCH_PIECES
    pieces += [str(i) for i in range(sizes.key + 1)]
    unique = dict.fromkeys(pieces)
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in unique])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _model(tokenizer: Qwen2Tokenizer, sizes: Sizes) -> Any:
    if sizes is QWEN3:
        text = _text_config(tokenizer, 352, [6, 5, 5], mrope_interleaved=True)
        text["head_dim"] = 32
        vision = _vision_config(sizes, depth=3)
        # One deepstack level: each costs as much as the merger, 0.33 M parameters.
        vision |= {"deepstack_visual_indexes": [1], "num_position_embeddings": 64}
        return Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=text, vision_config=vision, **_marks(tokenizer))
        )

    text = _text_config(tokenizer, 384, [4, 6, 6], type="mrope")
    vision = _vision_config(sizes, depth=4)
    # Full attention in every block.
    vision |= {
        "window_size": 112,
        "tokens_per_second": 2,
        "fullatt_block_indexes": [0, 1, 2, 3],
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_marks(tokenizer))
    )


def _text_config(
    tokenizer: Qwen2Tokenizer, inner: int, sections: list[int], **rope: Any
) -> dict[str, Any]:
    ids = _control_ids(tokenizer)
    return {
        "vocab_size": (len(tokenizer) + 31) // 32 * 32,
        "hidden_size": 128,
        "intermediate_size": inner,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        # Dialogues are a few hundred tokens long: with Qwen's 1e6 most rotation frequencies would
        # stand still.
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "default",
            "mrope_section": sections,
            "rope_theta": 10000.0,
            **rope,
        },
        "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }


def _vision_config(sizes: Sizes, depth: int) -> dict[str, Any]:
    return {
        "depth": depth,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": 128,
        "patch_size": sizes.patch,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
    }


def _marks(tokenizer: Qwen2Tokenizer) -> dict[str, Any]:
    ids = _control_ids(tokenizer)
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
    }


def _control_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    return {mark: tokenizer.convert_tokens_to_ids(mark) for mark in CONTROL}
