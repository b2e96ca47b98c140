"""A random, very small Qwen2.5-VL folder and random groups of episodes over it.

For tests of rows and learners.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from core import grpo
from core.types import End, Episode, Group, Media, MediaTable, Reward, Turn, View

# Ordinary token ids are 0..WORDS-1.
WORDS = 200
NAMES = ("endoftext", "im_start", "im_end", "vision_start", "vision_end", "image_pad", "video_pad")
SPECIAL = [f"<|{name}|>" for name in NAMES]
ID = {name: WORDS + i for i, name in enumerate(SPECIAL)}
ALLOWED = [*range(WORDS), ID["<|im_end|>"]]
VOCABULARY = 224


def build(folder: Path, *, tie: bool = True, seed: int = 0, layers: int = 2) -> Path:
    """Hidden 64, two text layers, two vision layers, patch 14.

    Tokens are w0, w1, ... and the special ones.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessor,
    )

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    ids = {s: tokenizer.convert_tokens_to_ids(s) for s in SPECIAL}
    assert ids == ID
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": tie,
            "rope_scaling": {
                "type": "mrope",
                "rope_type": "default",
                "mrope_section": [2, 3, 3],
                "rope_theta": 100.0,
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [0, 1],
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "window_size": 112,
            "tokens_per_second": 2,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tie,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():  # larger logits than at birth: else every log-prob is nearly the same
        model.get_input_embeddings().weight.mul_(3.0)
        if not tie:
            model.lm_head.weight.mul_(3.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112).save_pretrained(folder)
    return folder


def build_qwen3(folder: Path, seed: int = 0) -> Path:
    """The same for Qwen3-VL, with deepstack features; weights and image processor only."""
    from transformers import Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = Qwen3VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
                "rope_theta": 1e4,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "deepstack_visual_indexes": [0, 1, 2],
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "num_position_embeddings": 64,
        },
        image_token_id=ID["<|image_pad|>"],
        video_token_id=ID["<|video_pad|>"],
        vision_start_token_id=ID["<|vision_start|>"],
        vision_end_token_id=ID["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(3.0)
    model.save_pretrained(folder)
    Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=112 * 112).save_pretrained(folder)
    return folder


def image_ids(height: int, width: int) -> list[int]:
    pads = [ID["<|image_pad|>"]] * (height // 28 * width // 28)
    return [ID["<|vision_start|>"], *pads, ID["<|vision_end|>"]]


def random_group(
    seed: int, episodes: int = 4, frames: int = 2, second_turns: bool = True
) -> tuple[Group, MediaTable]:
    """Episodes with one shared prompt of `frames` images.

    Every second one goes on with a larger image.
    """
    rng = np.random.default_rng(seed)
    table: MediaTable = {}

    def media(height: int, width: int, name: str) -> Media:
        table.setdefault(name, rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        return Media(name, View(0, height, width))

    def words(low: int, high: int) -> list[int]:
        return rng.integers(0, WORDS, int(rng.integers(low, high + 1))).tolist()

    def turn(prompt: list[int], shown: tuple[Media, ...]) -> Turn:
        completion = (*words(3, 8), ID["<|im_end|>"])
        return Turn(
            tuple(prompt),
            completion,
            tuple((-rng.random(len(completion))).tolist()),
            "",
            shown,
            True,
            0,
        )

    first = tuple(media(56, 84, f"{seed}/{i}") for i in range(frames))
    prompt = words(4, 6)
    for _ in first:
        prompt += [*words(1, 1), *image_ids(56, 84)]
    prompt += words(3, 5)
    played = []
    rewards = []
    for g in range(episodes):
        turns = [turn(prompt, first)]
        if second_turns and g % 2 == 0:
            keyframe = media(84, 84, f"{seed}/key{g % 4}")
            second_prompt = [*words(2, 2), *image_ids(84, 84), *words(2, 4)]
            turns.append(turn(second_prompt, (keyframe,)))
        played.append(Episode(f"s{seed}", tuple(turns), End.DONE))
        parts = tuple(rng.random(len(turns)).tolist())
        rewards.append(Reward(sum(parts), {}, parts))
    return grpo.judge(Group(f"s{seed}", tuple(played), tuple(rewards))), table


def banned_ids() -> list[int]:
    return sorted(set(range(VOCABULARY)) - set(ALLOWED))


def reference(model, pixels, groups, media, temperature=1.0, banned=None) -> dict:
    """(logprob, entropy) by (episode, token), by transformers' own forward.

    An episode at a time.
    """
    found = {}
    number = 0
    for group in groups:
        for episode in group.episodes:
            ids = []
            trained: list[int] = []
            shown = []
            for turn in episode.turns:
                ids += turn.prompt_ids
                shown += [media[m.digest] for m in turn.media]
                trained += range(len(ids), len(ids) + len(turn.completion_ids))
                ids += turn.completion_ids
            ids_1T = torch.tensor([ids])
            patches, grid = pixels(shown)
            types = (ids_1T == ID["<|image_pad|>"]).int()
            out = model(
                input_ids=ids_1T,
                pixel_values=patches,
                image_grid_thw=grid,
                mm_token_type_ids=types,
            )
            logits = out.logits[0] / temperature
            if banned is not None:
                logits[:, banned] = -torch.inf
            logprobs_TV = logits.log_softmax(-1)
            for k, t in enumerate(trained):
                logprobs_V = logprobs_TV[t - 1]
                finite = logprobs_V[torch.isfinite(logprobs_V)]
                entropy = -(finite.exp() * finite).sum()
                found[number, k] = (logprobs_V[ids[t]], entropy)
            number += 1
    return found
