"""Take a released VideoSEG-O3 checkpoint apart: policy, mask head and SAM 2.

The release keeps all three in one Hugging Face folder in the format of Sa2VA:

    model.*                          a Qwen3-VL as in its own folders
    text_hidden_fcs.{0,2}.*          Linear, ReLU, Linear of the mask head
    grounding_encoder.sam2_model.*   SAM 2.0, its decoder trained; "gamma" is written "g_weight"

Source: tools/convert_to_hf.py and projects/open_r1/trainer/sa2va of the repository
Dmmm1997/VideoSEG-O3. Here the policy is a Hugging Face folder of its family with the mask head in
it, and SAM 2 is a file like the official ones.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.policy.mask_head import MaskHead
from models.segmenters import sam2_build

# In config.json of a release.
MODEL_TYPE = "sa2va_chat"

POLICY = "model."
MLP = "text_hidden_fcs."
SAM = "grounding_encoder.sam2_model."

# The policies that the release trains.
FAMILY = "qwen3_vl"
ARCHITECTURE = "Qwen3VLForConditionalGeneration"

# The file of SAM 2 in the new folder.
SAM_FILE = "sam2.pt"

# Files that are not copied: code, and what is written anew.
LEFT_OUT = ("*.py", "*.safetensors*", "*.bin*", "config.json", "__pycache__")

# Keys of a tokenizer's files with names of special tokens.
SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens")


def convert(source: Path, out: Path, token: str = "[SEG]") -> None:
    """Write the policy of a release with its mask head to `out`, and SAM 2 to `out`/sam2.pt.

    Args:
        source: folder of the release.
        out: a new folder.
        token: token with a mask; special in the release, ordinary here, since a policy samples
            ordinary tokens only.

    Raises:
        ValueError: `source` is no such release, lacks a part of it, or `out` exists.
    """
    config = _read_config(source)
    if out.exists():
        raise ValueError(f"{out}: exists already; choose another folder")
    shards = sorted(source.glob("*.safetensors"))
    if not shards:
        raise ValueError(f"{source}: no .safetensors file; download the whole release")

    shutil.copytree(source, out, ignore=shutil.ignore_patterns(*LEFT_OUT))
    heads: dict[str, Tensor] = {}
    where: dict[str, str] = {}
    for shard in shards:
        policy, rest = _parts(load_file(shard))
        heads |= rest
        if policy:
            save_file(policy, out / shard.name, metadata={"format": "pt"})
        where |= dict.fromkeys(policy, shard.name)

    _check_parts(source, where, heads)
    _write_json(out / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    _write_json(out / "config.json", _policy_config(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        _make_ordinary(out / name, token)
    _write_head(out, heads, int(config["text_config"]["hidden_size"]))


def _read_config(source: Path) -> dict[str, Any]:
    file = source / "config.json"
    if not file.is_file():
        raise ValueError(f"{source}: no config.json; give the folder of a released VideoSEG-O3")
    config: dict[str, Any] = json.loads(file.read_text())
    if config.get("model_type") != MODEL_TYPE or "vision_config" not in config:
        raise ValueError(
            f"{file}: model_type is {config.get('model_type')!r}; only VideoSEG-O3's releases "
            f"({MODEL_TYPE!r} over Qwen3-VL) need to be converted"
        )
    return config


def _policy_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config.json of the policy alone."""
    left_out = {"auto_map", "template", "model_type", "architectures"}
    kept = {key: value for key, value in config.items() if key not in left_out}
    return {"architectures": [ARCHITECTURE], "model_type": FAMILY, **kept}


def _parts(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the policy's weights under its own names, and all others."""
    policy = {}
    rest = {}
    for name, tensor in weights.items():
        if name.startswith(POLICY):
            policy[name.removeprefix(POLICY)] = tensor
        else:
            rest[name] = tensor
    return policy, rest


def _check_parts(source: Path, policy: Mapping[str, str], rest: Mapping[str, Tensor]) -> None:
    for prefix in (MLP, SAM):
        if not any(name.startswith(prefix) for name in rest):
            raise ValueError(
                f"{source}: no weight {prefix}*: a part of the release is missing; download all "
                "of its .safetensors files"
            )
    if not policy:
        raise ValueError(f"{source}: no weight {POLICY}*: the policy is missing")


def _write_head(out: Path, weights: Mapping[str, Tensor], policy_width: int) -> None:
    """Write SAM 2, and the mask head over it with the trained MLP and decoder.

    Raises:
        ValueError: SAM 2 or the MLP has another shape.
    """
    sam_weights = {}
    for name, tensor in weights.items():
        if name.startswith(SAM):
            own_name = name.removeprefix(SAM).replace(".g_weight", ".gamma")
            sam_weights[own_name] = tensor.float()
    torch.save({"model": sam_weights}, out / SAM_FILE)
    sam, _ = sam2_build.load(out / SAM_FILE)

    head = MaskHead(sam, policy_width, multimask=True)
    trained = {}
    for name in head.mlp.state_dict():
        tensor = weights.get(MLP + name)
        if tensor is None or tensor.shape != head.mlp.state_dict()[name].shape:
            raise ValueError(f"{out}: weight {MLP}{name} is missing or of another size")
        trained[name] = tensor.float()
    head.mlp.load_state_dict(trained)
    head.save(out)


def _make_ordinary(file: Path, token: str) -> None:
    """Make a special token of a tokenizer's file an ordinary one."""
    if not file.is_file():
        return
    content = json.loads(file.read_text())
    decoder = content.get("added_tokens_decoder", {})
    for entry in [*content.get("added_tokens", []), *decoder.values()]:
        if entry["content"] == token:
            entry["special"] = False
    for key in SPECIAL_LISTS:
        if isinstance(content.get(key), list):
            content[key] = [each for each in content[key] if _text_of(each) != token]
    _write_json(file, content)


def _text_of(token: Any) -> str:
    """Return a token's text; files spell tokens as texts or as mappings."""
    return str(token["content"]) if isinstance(token, dict) else str(token)


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
