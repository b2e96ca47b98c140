"""Sizes of a policy by arithmetic: parameters, and bytes of a token in the KV cache.

    sizes = sizes_of(json.loads(Path("Qwen2.5-VL-7B-Instruct/config.json").read_text()))
    sizes.parameters        # 8,292,166,656
    sizes.kv_values         # 28 layers x 2 x 4 heads x 128 values for each token

Counted from `config.json` alone, as transformers builds the modules; tests compare with the modules
themselves. A known model needs no folder: `config_of_name` has the released configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Numbers of a policy that its memory depends on.

    Attributes:
        language: parameters of the language model, embeddings and head included.
        vision: parameters of the vision tower and its mergers.
        hidden: width of the language model.
        layers: its layers.
        heads: heads of its queries, and `kv_heads` of its keys and values.
        head_dim: width of a head.
        mlp: width of its MLPs.
        vocabulary: words.
        vision_hidden: width of the vision tower, with `vision_layers` and MLPs of `vision_mlp`.
        merged: patches of an image token.
    """

    language: int
    vision: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_mlp: int
    merged: int

    @property
    def parameters(self) -> int:
        return self.language + self.vision

    @property
    def kv_values(self) -> int:
        """Numbers that a token leaves in the KV cache: keys and values of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def layer_values(self) -> int:
        """Numbers that a token leaves in one decoder layer for the backward pass.

        Inputs of two norms, of attention and MLP; queries, keys, values and the attention's output;
        gate, up, activated gate and product. Counted as in arXiv 2205.05198, section 4, for this
        kind of layer, with attention that keeps no scores.
        """
        attention = 2 * self.heads * self.head_dim + 2 * self.kv_heads * self.head_dim
        return 4 * self.hidden + attention + 4 * self.mlp

    @property
    def vision_layer_values(self) -> int:
        """The same of a patch in one layer of the vision tower."""
        return 4 * self.vision_hidden + 4 * self.vision_hidden + 4 * self.vision_mlp


def sizes_of(config: Mapping[str, Any]) -> Sizes:
    """Return the sizes of a policy.

    Args:
        config: parsed `config.json` of a family of `models.families`.

    Raises:
        KeyError: a number is missing.
    """
    text = config.get("text_config", config)
    tower = config["vision_config"]
    head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    qwen3 = config["model_type"] == "qwen3_vl"
    return Sizes(
        language=_language(config, text, head_dim, qwen3),
        vision=_vision_qwen3(tower) if qwen3 else _vision_qwen2_5(tower),
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_dim=head_dim,
        mlp=text["intermediate_size"],
        vocabulary=text["vocab_size"],
        vision_hidden=tower["hidden_size"],
        vision_layers=tower["depth"],
        vision_mlp=tower["intermediate_size"],
        merged=tower.get("spatial_merge_size", 2) ** 2,
    )


def _language(
    config: Mapping[str, Any], text: Mapping[str, Any], head_dim: int, qwen3: bool
) -> int:
    """Return the parameters of a Qwen2.5 or Qwen3 decoder."""
    width = text["hidden_size"]
    queries = text["num_attention_heads"] * head_dim
    keys = text["num_key_value_heads"] * head_dim
    attention = width * (queries + 2 * keys) + queries * width
    # Qwen2.5 has biases at queries, keys and values; Qwen3 norms of queries and keys.
    attention += 2 * head_dim if qwen3 else queries + 2 * keys
    mlp = 3 * width * text["intermediate_size"]
    layer = attention + mlp + 2 * width
    words = text["vocab_size"] * width
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    return text["num_hidden_layers"] * layer + width + words * (1 if tied else 2)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _patches(tower: Mapping[str, Any]) -> int:
    """Return the numbers of a patch: channels, frames and pixels."""
    channels = tower.get("in_channels", tower.get("in_chans", 3))
    return channels * tower.get("temporal_patch_size", 2) * tower["patch_size"] ** 2


def _vision_qwen2_5(tower: Mapping[str, Any]) -> int:
    width = tower["hidden_size"]
    middle = tower["intermediate_size"]
    attention = _linear(width, 3 * width) + _linear(width, width)
    mlp = 2 * _linear(width, middle) + _linear(middle, width)
    merged = width * tower.get("spatial_merge_size", 2) ** 2
    merger = width + _linear(merged, merged) + _linear(merged, tower["out_hidden_size"])
    layers = tower["depth"] * (attention + mlp + 2 * width)
    return _patches(tower) * width + layers + merger


def _vision_qwen3(tower: Mapping[str, Any]) -> int:
    width = tower["hidden_size"]
    middle = tower["intermediate_size"]
    attention = _linear(width, 3 * width) + _linear(width, width)
    mlp = _linear(width, middle) + _linear(middle, width)
    merged = width * tower.get("spatial_merge_size", 2) ** 2
    projection = _linear(merged, merged) + _linear(merged, tower["out_hidden_size"])
    # The last merger norms patches, those of deepstack norm merged ones.
    mergers = 2 * width + projection
    mergers += len(tower.get("deepstack_visual_indexes", ())) * (2 * merged + projection)
    layers = tower["depth"] * (attention + mlp + 4 * width)
    positions = tower.get("num_position_embeddings", 0) * width
    return _linear(_patches(tower), width) + positions + layers + mergers


# --- released models


def _qwen2_5_vl(width: int, mlp: int, layers: int, heads: int, kv_heads: int, words: int) -> dict:
    return {
        "model_type": "qwen2_5_vl",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": words,
        "tie_word_embeddings": words == 151936,
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": width,
            "patch_size": 14,
        },
    }


def _qwen3_vl(width: int, mlp: int, layers: int, heads: int) -> dict:
    return {
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "text_config": {
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
        },
        "vision_config": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "out_hidden_size": width,
            "patch_size": 16,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    }


# From the models' config.json.
RELEASED: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL-3B": _qwen2_5_vl(2048, 11008, 36, 16, 2, 151936),
    "Qwen2.5-VL-7B": _qwen2_5_vl(3584, 18944, 28, 28, 4, 152064),
    "Qwen3-VL-2B": _qwen3_vl(2048, 6144, 28, 16),
    "Qwen3-VL-4B": _qwen3_vl(2560, 9728, 36, 32),
}

# Policies of papers that started from one of them.
STARTED_FROM = {
    "Veason-R1-7B": "Qwen2.5-VL-7B",
    "VideoSEG-O3-2B": "Qwen3-VL-2B",
    "VideoSEG-O3-4B": "Qwen3-VL-4B",
}


def config_of_name(path: str) -> tuple[str, dict[str, Any]] | None:
    """Return name and configuration of the released model in a path; None for any other."""
    for name, base in (*STARTED_FROM.items(), *zip(RELEASED, RELEASED, strict=True)):
        if name.lower() in path.lower():
            return base, RELEASED[base]
    return None
