"""The mask head: a hidden state at a [SEG] token becomes a prompt of SAM 2's mask decoder.

    hidden state (D) -> MLP -> language token (C) -> mask decoder, beside SAM 2's "no point" tokens

Source: docs/spec/videoseg_o3.md. The head owns the MLP, the decoder and two learned embeddings of
the prompt encoder, all of them trained. Image encoder and memory stay SAM 2's own and frozen
(`FrameFeatures`).

Two decisions of this project. By default one mask is drawn, from SAM 2's single-mask token: the
best of three by predicted IoU (`mask.multimask`, the release) may jump from one to another between
rollout and learner. The object score does not blank masks: an absent mask has negative logits,
else its likelihood would have no gradient.
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

from core.files import replacing
from models.segmenters.sam2_features import CACHE_BYTES, FeatureCache
from models.segmenters.sam2_shape import Shape
from models.segmenters.sam2_track import Maps

# In the head's config.json.
MODEL_TYPE = "mask_head"

# The head's folder inside the policy's folder. Not beside the policy's weights: vLLM reads every
# .safetensors there.
FOLDER = "mask_head"


class MaskHead(nn.Module):
    """An MLP and a mask decoder: hidden states in, mask logits out."""

    dense_pe: Tensor
    no_memory: Tensor

    def __init__(
        self,
        sam: SAM2Base,
        policy_width: int,
        multimask: bool = False,
    ) -> None:
        """Make a fresh MLP and copies of the decoding parts of `sam`.

        Args:
            sam: the SAM 2 to decode with.
            policy_width: width of the policy's hidden states.
            multimask: take the best of three masks by predicted IoU.
        """
        super().__init__()
        width = sam.hidden_dim
        prompts = sam.sam_prompt_encoder
        self.policy_width = policy_width
        self.multimask = multimask
        self.encoder = fingerprint(sam)
        self.mlp = nn.Sequential(
            nn.Linear(policy_width, policy_width),
            nn.ReLU(),
            nn.Linear(policy_width, width),
        )
        self.no_point = nn.Parameter(prompts.not_a_point_embed.weight.detach().clone())
        self.no_mask = nn.Parameter(prompts.no_mask_embed.weight.detach().clone())

        self.decoder = _trained_decoder(sam)
        with torch.no_grad():
            dense_pe = prompts.get_dense_pe().clone()
            no_memory = sam.no_mem_embed.detach().reshape(1, -1, 1, 1).clone()
        self.register_buffer("dense_pe", dense_pe, persistent=False)
        self.register_buffer("no_memory", no_memory, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the trained parameters."""
        return self.no_point.dtype

    def forward(
        self,
        hidden_SD: Tensor,
        maps: Maps,
        seg_M: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode M masks from the hidden states of S [SEG] tokens.

        Args:
            hidden_SD: hidden states at the [SEG] tokens.
            maps: image features of each mask's frame (`FrameFeatures`).
            seg_M: the token of each mask, an index into S.

        Returns:
            logits_Mhw in fp32, and token_MC, the language token of each mask.
        """
        token_MC = self.mlp(hidden_SD.to(self.dtype))[seg_M]
        fine, middle, coarse = (level.to(self.dtype) for level in maps)
        coarse = coarse + self.no_memory.to(self.dtype)
        masks_M1hw, _, _ = self.decode((fine, middle, coarse), token_MC)
        return masks_M1hw[:, 0].float(), token_MC

    def decode(self, maps: Maps, token_MC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return masks (M, 1, h, w), the decoder's output tokens (M, C) and object scores (M, 1).

        Args:
            maps: features, finest first; the coarsest is conditioned on SAM 2's memory (on a single
                frame: plus `no_memory`).
            token_MC: language tokens.
        """
        count, width = token_MC.shape
        # For an image without points SAM2Base gives one "no point" token and its prompt encoder
        # pads with another.
        empty_M2C = self.no_point.expand(count, 2, width)
        no_mask = self.no_mask.reshape(1, -1, 1, 1).expand_as(maps[2])
        masks, iou, tokens, score = self.decoder(
            image_embeddings=maps[2],
            # DeepSpeed casts parameters to the training type, but no buffers.
            image_pe=self.dense_pe.to(self.dtype),
            sparse_prompt_embeddings=torch.cat([empty_M2C, token_MC[:, None]], 1),
            dense_prompt_embeddings=no_mask,
            multimask_output=self.multimask,
            repeat_image=False,
            high_res_features=list(maps[:2]),
        )
        all_M = torch.arange(count, device=iou.device)
        best_M = iou.argmax(1)
        return masks[all_M, best_M][:, None], tokens[all_M, best_M], score

    def save(self, policy_folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors into `mask_head` in the policy's folder.

        Args:
            state: what to write instead of the present `state_dict`.
        """
        folder = policy_folder / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        weights = {}
        for name, tensor in (state or self.state_dict()).items():
            weights[name] = tensor.detach().cpu().contiguous()

        # safetensors makes its files unreadable for others.
        with replacing(folder / "model.safetensors") as partial:
            save_file(weights, partial)
            partial.chmod(0o644)
        text = json.dumps(self.config, indent=1)
        (folder / "config.json").write_text(text + "\n")

    @property
    def config(self) -> dict[str, Any]:
        """The contents of config.json."""
        return {
            "model_type": MODEL_TYPE,
            "policy_width": self.policy_width,
            "multimask": self.multimask,
            "image_encoder": self.encoder,
        }


def _trained_decoder(sam: SAM2Base) -> Any:
    """Return a copy of SAM 2's mask decoder, ready for training."""
    decoder = copy.deepcopy(sam.sam_mask_decoder).requires_grad_(True)
    # This option would make training and evaluation differ.
    decoder.dynamic_multimask_via_stability = False
    # These two are applied with the image encoder and frozen with it.
    del decoder.conv_s0
    del decoder.conv_s1
    # No loss reaches these heads, but weight decay would.
    decoder.iou_prediction_head.requires_grad_(False)
    decoder.pred_obj_score_head.requires_grad_(False)
    return decoder


def load(
    policy_folder: Path,
    sam: SAM2Base,
    policy_width: int,
    multimask: bool = False,
) -> MaskHead:
    """Return the saved head of a policy in fp32.

    Args:
        policy_folder: the policy's folder, with the head's folder in it.
        sam: the SAM 2 under the head at its training.
        policy_width: width of the policy's hidden states.
        multimask: as in `MaskHead`; its weights fit both.

    Raises:
        ValueError: the head is absent or damaged, or belongs to another policy or SAM 2.
    """
    folder = policy_folder / FOLDER
    for file in (folder / "config.json", folder / "model.safetensors"):
        if not file.is_file():
            raise ValueError(
                f"policy.path: no file {file}: this policy has no mask head; "
                "give a policy folder that has one: one made by ray_jobs.warm_start, or a released "
                "VideoSEG-O3 after ray_jobs.convert"
            )
    config = json.loads((folder / "config.json").read_text())
    _check_config(folder / "config.json", config, policy_width, fingerprint(sam))

    head = MaskHead(sam, policy_width, multimask)
    weights = load_file(folder / "model.safetensors")
    _check_shapes(folder / "model.safetensors", head.state_dict(), weights)
    head.load_state_dict(weights)
    return head


def _check_config(
    file: Path,
    config: Mapping[str, Any],
    policy_width: int,
    encoder: str,
) -> None:
    if config.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{file}: model_type is {config.get('model_type')!r}: not a mask head ({MODEL_TYPE!r})"
        )
    if config.get("policy_width") != policy_width:
        raise ValueError(
            f"{file}: made for hidden states of width {config.get('policy_width')}, "
            f"the policy beside it has {policy_width}: head and policy are saved together; "
            "copy both from one checkpoint"
        )
    if config.get("image_encoder") != encoder:
        raise ValueError(
            f"{file}: trained over another SAM 2 (image encoder {config.get('image_encoder')}, "
            f"that of segmenter.path is {encoder}): "
            "set segmenter.path to the one it was trained over"
        )


def _check_shapes(file: Path, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Refuse weights of other shapes, with one of them named; `load_state_dict` names them all."""
    wrong = []
    for name in dict.fromkeys([*expected, *given]):
        if _shape(expected, name) != _shape(given, name):
            wrong.append(name)
    if not wrong:
        return
    name = wrong[0]
    raise ValueError(
        f"{file}: {len(wrong)} weights do not fit, e.g. {name!r} is {_shape(given, name)} there "
        f"and {_shape(expected, name)} here; copy the whole mask_head folder anew "
        "from the checkpoint that config.json beside it belongs to"
    )


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    if name not in weights:
        return "absent"
    return tuple(weights[name].shape)


def fingerprint(sam: SAM2Base) -> str:
    """Return a digest of the weights of the image encoder's neck: the name of this SAM 2."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(sam.image_encoder.neck.state_dict().items()):
        found.update(name.encode())
        array = tensor.detach().cpu().float().contiguous().numpy()
        found.update(array.tobytes())
    return found.hexdigest()


class FrameFeatures:
    """SAM 2's image features of frames, without gradients, cached by digest.

    Not an nn.Module: the frozen encoder must not be trained, sharded and saved with the policy.
    """

    def __init__(
        self,
        sam: SAM2Base,
        shape: Shape,
        device: str = "cpu",
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.sam = sam.to(device).eval().requires_grad_(False)
        is_official = not shape.dense_prompt
        self.features = FeatureCache(
            self.sam, torch.device(device), cache_bytes, like_official=is_official
        )
        self.half = torch.device(device).type == "cuda" and is_official

    def __call__(self, digests: Sequence[str], frames: Mapping[str, np.ndarray]) -> Maps:
        """Return the stacked features of the frames `digests`.

        Args:
            digests: names of frames.
            frames: pixels of these frames by digest, uint8 (H, W, 3).

        Raises:
            ValueError: `frames` lacks a digest.
        """
        for digest in digests:
            if digest not in frames:
                raise ValueError(
                    f"frame {digest} of a mask is not among the {len(frames)} frames "
                    "given with the row"
                )
        wanted = {digest: frames[digest] for digest in digests}
        precision = torch.autocast(self.features.device.type, torch.bfloat16, enabled=self.half)
        with torch.no_grad(), precision:
            return self.features.stacked(digests, wanted)

    def blank(self) -> Maps:
        """Return features of no frame, (1, C, h, w), for a rank without anything to draw."""
        width = self.sam.hidden_dim
        grid = self.sam.sam_image_embedding_size
        device = self.features.device
        return (
            torch.zeros(1, width // 8, 4 * grid, 4 * grid, device=device),
            torch.zeros(1, width // 4, 2 * grid, 2 * grid, device=device),
            torch.zeros(1, width, grid, grid, device=device),
        )


def resize_logits(logits_Mhw: Tensor, height: int, width: int) -> Tensor:
    """Return mask logits at a frame's size, fp32 (M, height, width); pixels above 0 are mask."""
    full_M1HW = F.interpolate(
        logits_Mhw[:, None].float(),
        size=(height, width),
        mode="bilinear",
        align_corners=False,
    )
    return full_M1HW[:, 0]
