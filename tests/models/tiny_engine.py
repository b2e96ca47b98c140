"""A random, very small Qwen2.5-VL folder that vLLM can load.

Byte-level tokens, processor and all.
"""

from __future__ import annotations

from pathlib import Path

import torch

CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
MARKUP = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
]  # ordinary tokens, as <tool_call> is in Qwen2.5-VL


def tokenizer():
    """A token for each byte, without merges; then control tokens; then markup. 270 tokens."""
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import Qwen2Tokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Qwen2Tokenizer(
        vocab={c: i for i, c in enumerate(alphabet)},
        merges=[],
        unk_token=None,
        bos_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=4096,
    )
    tokens.add_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tokens.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKUP])
    return tokens


def model(tokens, seed: int):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {t: tokens.convert_tokens_to_ids(t) for t in CONTROL}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 288,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
            "rope_scaling": {
                "type": "mrope",
                "rope_type": "default",
                "mrope_section": [4, 6, 6],
                "rope_theta": 1e4,
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
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
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    policy = Qwen2_5_VLForConditionalGeneration(config)
    # Larger than at birth: images and history must move the log-probs, else a test proves little.
    with torch.no_grad():
        policy.get_input_embeddings().weight.mul_(4.0)
        for name, parameter in policy.named_parameters():
            if "merger" in name and "weight" in name and parameter.ndim == 2:
                parameter.mul_(10.0)
    return policy.eval()


def build(folder: Path, seed: int = 0) -> Path:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokens = tokenizer()
    model(tokens, seed).save_pretrained(folder)
    Qwen2_5_VLProcessor(
        # As released; images of this project may be smaller.
        image_processor=Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056),
        tokenizer=tokens,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template="{{ messages }}",
    ).save_pretrained(folder)
    return folder
