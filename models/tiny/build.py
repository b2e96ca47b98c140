"""A tiny, untrained Qwen2.5-VL with its own small tokenizer, as an ordinary Hugging Face folder.

What makes it tiny is sizes alone: transformers and vLLM load it with their Qwen2.5-VL classes. The vocabulary holds
the bytes, the words of the given text, the numbers 0 to 112 and the recurring pieces of the answers as single tokens,
so that an answer is short; every text still round-trips exactly. This file knows no data set and no system.
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
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
           "<|image_pad|>", "<|video_pad|>")  # fmt: skip
PIECES = ("<think>", "</think>", "<answer>", "</answer>", '[{"frame_idx": ', ', "object description": "', '"}]',
          '[{"bbox_2d":[', '],"label":"')  # fmt: skip
NUMBERS = tuple(str(i) for i in range(113))
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")  # fmt: skip  # Qwen2's own splitting

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


def build(out_dir: Path, samples_of_text: Iterable[str], seed: int = 0) -> None:
    """Writes config, processor, tokenizer and random weights (fp32, about 2.5 M parameters) to `out_dir`."""
    tokenizer = _tokenizer(samples_of_text)
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer))
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in CONTROL}
    model.generation_config = GenerationConfig(
        eos_token_id=[ids["<|im_end|>"]], pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"]
    )
    model.save_pretrained(out_dir)
    processor(tokenizer).save_pretrained(out_dir)


def processor(tokenizer: Any) -> Qwen2_5_VLProcessor:
    """Processor that leaves images of 28 to 1000 pixels a side at their size, if it is a multiple of 28."""
    sizes: dict[str, Any] = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    plain: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=1000 * 1000, **sizes, **plain)
    videos = Qwen2VLVideoProcessor(**sizes, **plain)
    return Qwen2_5_VLProcessor(
        image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=CHAT_TEMPLATE
    )


def _tokenizer(samples_of_text: Iterable[str]) -> Qwen2Tokenizer:
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    frame = ("user\n", "assistant\n", "system\n", " Find it.", "Locate it.", '","', " and")
    text = [*frame, *(line for line in samples_of_text for line in (line, " " + line))]
    trainer = trainers.BpeTrainer(
        vocab_size=800,  # more than the words need, so that every word becomes one token
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
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in (*PIECES, *NUMBERS)])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in CONTROL}
    text = {
        "vocab_size": (len(tokenizer) + 31) // 32 * 32,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        # Dialogues are a few hundred tokens long: with Qwen's 1e6 most rotation frequencies would stand still.
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 4,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": 128,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "window_size": 112,
        "tokens_per_second": 2,
        "fullatt_block_indexes": [0, 1, 2, 3],
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
