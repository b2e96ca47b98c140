"""The mask head: the policy's hidden state at a [SEG] token becomes a prompt of SAM 2's mask decoder.

hidden state (D) -> MLP -> language token (C) -> mask decoder, beside SAM 2's "no point" tokens (VideoSEG-O3, SPEC A.3).
The head owns the MLP, the decoder and the two learned embeddings of the prompt encoder that an image without points
and masks reads; all of them are trained. Image encoder and memory stay SAM 2's own and frozen: `FrozenFrames`.

What is ours: one mask is drawn always (SAM 2's single-mask token; `multimask` takes the best of three by predicted IoU,
which may jump from one to another between rollout and learner), and the object score does not blank masks: a mask
that is not there has negative logits, or its likelihood would have no gradient.
This file knows neither rows nor losses, and no language model but its width.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor, nn

from models.segmenters.sam2_build import Shape
from models.segmenters.sam2_segmenter import CACHE_BYTES, Features
from models.segmenters.sam2_track import Maps

MODEL_TYPE = "mask_head"  # of config.json
FOLDER = "mask_head"  # in the policy's; not beside its weights: vLLM reads every .safetensors that lies there


class MaskHead(nn.Module):
    """`forward(hidden_SD, maps, seg_M)` -> mask logits, fp32 (M, h, w), of M masks that S tokens are asked for."""

    dense_pe: Tensor
    no_memory: Tensor

    def __init__(self, sam: SAM2Base, policy_width: int, multimask: bool = False) -> None:
        """A fresh MLP, and copies of what `sam` decodes with."""
        super().__init__()
        width = sam.hidden_dim
        prompts = sam.sam_prompt_encoder
        self.policy_width = policy_width
        self.multimask = multimask
        self.encoder = fingerprint(sam)
        self.mlp = nn.Sequential(
            nn.Linear(policy_width, policy_width), nn.ReLU(), nn.Linear(policy_width, width)
        )
        self.no_point = nn.Parameter(prompts.not_a_point_embed.weight.detach().clone())
        self.no_mask = nn.Parameter(prompts.no_mask_embed.weight.detach().clone())
        self.decoder = copy.deepcopy(sam.sam_mask_decoder).requires_grad_(True)
        self.decoder.dynamic_multimask_via_stability = (
            False  # it would differ between training and evaluation
        )
        del (
            self.decoder.conv_s0,
            self.decoder.conv_s1,
        )  # applied with the image encoder, frozen with it
        for judge in (self.decoder.iou_prediction_head, self.decoder.pred_obj_score_head):
            judge.requires_grad_(False)  # no loss reaches them; weight decay would
        with torch.no_grad():
            self.register_buffer("dense_pe", prompts.get_dense_pe().clone(), persistent=False)
            self.register_buffer(
                "no_memory",
                sam.no_mem_embed.detach().reshape(1, -1, 1, 1).clone(),
                persistent=False,
            )

    @property
    def dtype(self) -> torch.dtype:
        return self.no_point.dtype

    def forward(self, hidden_SD: Tensor, maps: Maps, seg_M: Tensor) -> tuple[Tensor, Tensor]:
        """(logits_Mhw, token_MC). `maps`: features of each mask's frame, from `FrozenFrames`."""
        token_MC = self.mlp(hidden_SD.to(self.dtype))[seg_M]
        fine, middle, coarse = (level.to(self.dtype) for level in maps)
        return self.decode((fine, middle, coarse + self.no_memory.to(self.dtype)), token_MC)[0][
            :, 0
        ].float(), token_MC

    def decode(self, maps: Maps, token_MC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Masks (M, 1, h, w), the decoder's output tokens (M, C) and object scores (M, 1).

        `maps`: finest first; the coarsest is what SAM 2's memory made of it (on a single frame: plus `no_memory`).
        """
        number, width = token_MC.shape
        # an image without points shows the decoder two "no point" tokens (SAM2Base, then its prompt encoder's padding)
        empty_M2C = self.no_point.expand(number, 2, width)
        masks, iou, tokens, score = self.decoder(
            image_embeddings=maps[2],
            image_pe=self.dense_pe.to(self.dtype),  # DeepSpeed halves parameters, not buffers
            sparse_prompt_embeddings=torch.cat([empty_M2C, token_MC[:, None]], 1),
            dense_prompt_embeddings=self.no_mask.reshape(1, -1, 1, 1).expand_as(maps[2]),
            multimask_output=self.multimask,
            repeat_image=False,
            high_res_features=list(maps[:2]),
        )
        all_M = torch.arange(number, device=iou.device)
        best_M = iou.argmax(1)  # of one mask: 0
        return masks[all_M, best_M][:, None], tokens[all_M, best_M], score

    def save(self, policy_folder: Path) -> None:
        """Writes `mask_head`/config.json and model.safetensors into the policy's folder."""
        folder = policy_folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()
        }
        partial = folder / "model.safetensors.partial"
        save_file(weights, partial)
        partial.chmod(0o644)  # safetensors makes its files unreadable for others
        partial.replace(folder / "model.safetensors")  # a crash leaves the previous weights whole
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")

    @property
    def config(self) -> dict[str, Any]:
        return {
            "model_type": MODEL_TYPE,
            "policy_width": self.policy_width,
            "multimask": self.multimask,
            "image_encoder": self.encoder,
        }


def load(policy_folder: Path, sam: SAM2Base, policy_width: int) -> MaskHead:
    """The head that `save` wrote, in fp32, over the SAM 2 and for the policy that it was trained with.

    Raises ValueError, naming the file and the remedy, if it is not there, damaged or belongs to others.
    """
    folder = policy_folder / FOLDER
    for file in (folder / "config.json", folder / "model.safetensors"):
        if not file.is_file():
            raise ValueError(
                f"policy.path: no file {file}: this policy has no mask head; make one with ray_jobs.warm_start, or "
                "give a policy folder that has one"
            )
    config = json.loads((folder / "config.json").read_text())
    _check(folder / "config.json", config, policy_width, fingerprint(sam))
    head = MaskHead(sam, policy_width, bool(config.get("multimask", False)))
    weights = load_file(folder / "model.safetensors")
    _check_shapes(folder / "model.safetensors", head.state_dict(), weights)
    head.load_state_dict(weights)
    return head


def _check(file: Path, config: Mapping[str, Any], policy_width: int, encoder: str) -> None:
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{file}: model_type is {config.get('model_type')!r}: not a mask head ({MODEL_TYPE!r})"
        )
    if config.get("policy_width") != policy_width:
        raise ValueError(
            f"{file}: made for hidden states of width {config.get('policy_width')}, the policy beside it has "
            f"{policy_width}: head and policy are saved together; copy both from one checkpoint"
        )
    if config.get("image_encoder") != encoder:
        raise ValueError(
            f"{file}: trained over another SAM 2 (image encoder {config.get('image_encoder')}, that of segmenter.path "
            f"is {encoder}): set segmenter.path and segmenter.config to the one it was trained over"
        )


def _check_shapes(file: Path, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    wrong = [
        name for name in expected if name not in given or given[name].shape != expected[name].shape
    ]
    wrong += [name for name in given if name not in expected]
    if wrong:
        sizes = [
            tuple(found[wrong[0]].shape) if wrong[0] in found else "absent"
            for found in (given, expected)
        ]
        raise ValueError(
            f"{file}: {len(wrong)} weights do not fit, e.g. {wrong[0]!r} is {sizes[0]} there and {sizes[1]} here; "
            "copy the whole mask_head folder anew from the checkpoint that config.json beside it belongs to"
        )


def fingerprint(sam: SAM2Base) -> str:
    """Tells one frozen image encoder from another by the weights of its neck."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(sam.image_encoder.neck.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()


class FrozenFrames:
    """SAM 2's image features of frames, kept by digest up to `cache_bytes`, without gradients.

    No nn.Module: the frozen model must not become part of what is trained, sharded and saved with the policy.
    """

    def __init__(
        self, sam: SAM2Base, shape: Shape, device: str = "cpu", cache_bytes: int = CACHE_BYTES
    ) -> None:
        self.sam = sam.to(device).eval().requires_grad_(False)
        self.features = Features(self.sam, torch.device(device), cache_bytes)
        self.half = torch.device(device).type == "cuda" and not shape.dense_prompt

    def __call__(self, digests: Sequence[str], frames: Mapping[str, np.ndarray]) -> Maps:
        """Of the frames called `digests`, stacked; `frames` has the pixels (uint8 (H, W, 3)) of all of them.

        Raises ValueError for a digest that `frames` lacks.
        """
        missing = [d for d in digests if d not in frames]
        if missing:
            raise ValueError(
                f"frame {missing[0]} of a mask is not among the {len(frames)} frames given with the row"
            )
        with (
            torch.no_grad(),
            torch.autocast(self.features.device.type, torch.bfloat16, enabled=self.half),
        ):
            return self.features.stacked(digests, {d: frames[d] for d in digests})

    def blank(self) -> Maps:
        """Features of no frame, (1, C, h, w): for a rank that has nothing to draw but must run the head."""
        sam = self.sam
        grid = self.sam.sam_image_embedding_size
        widths = (sam.hidden_dim // 8, sam.hidden_dim // 4, sam.hidden_dim)
        return tuple(
            torch.zeros(1, width, grid * scale, grid * scale, device=self.features.device)
            for width, scale in zip(widths, (4, 2, 1), strict=True)
        )


def resize(logits_Mhw: Tensor, height: int, width: int) -> Tensor:
    """Mask logits at a frame's size, fp32 (M, height, width); above 0 is mask."""
    full = F.interpolate(
        logits_Mhw[:, None].float(), size=(height, width), mode="bilinear", align_corners=False
    )
    return full[:, 0]
