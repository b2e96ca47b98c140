"""The learner's forward and backward passes on a pretended GPU: the figures of the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from core.batch import GroupBatch
from core.drawing.requests import DrawnMask, requests_of_row, with_loss_weights
from core.types import MediaTable
from models.policy import lora
from models.policy.mask_head import FrameFeatures
from models.policy.pixels import Pixels
from models.policy.policy import Policy
from models.policy.reference import Reference
from models.policy.seg_policy import SegOptions, SegPolicy
from models.segmenters.sam2_shape import TINY
from tests.fake_cuda import fake_cuda
from tests.models.policy_rows import gradients, relative, rows_and_media, run
from tests.models.seg_cases import SEG, case, frames, head, sam
from tests.models.tiny_qwen import ALLOWED, build, build_qwen3

ADAPTER = lora.Lora(rank=4, alpha=8.0, targets=("q_proj", "v_proj"))


@pytest.fixture(scope="module", params=["qwen2.5", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("qwen")
    return build_qwen3(path) if request.param == "qwen3" else build(path)


def made(folder: Path, device: str, **settings: Any) -> Policy:
    torch.manual_seed(0)
    return Policy(folder, allowed_ids=ALLOWED, attention="split", device=device, **settings)


def learned(policy: Policy, rows: Sequence[GroupBatch], media: MediaTable) -> Tensor:
    """Log-probs and entropies (2, N) on the CPU; leaves the gradients of a mixed-sign loss."""
    pixels = Pixels(policy.vlm.name_or_path)
    found = []
    for row in rows:
        output = run(policy, pixels, row, media, 0.9)
        found_2N = torch.stack([output.logprob_N, output.entropy_N])
        signs_N = torch.linspace(-1, 1, found_2N.shape[1], device=found_2N.device)
        (found_2N * torch.stack([signs_N, 0.1 * signs_N])).sum().backward()
        found.append(found_2N.detach().float().cpu())
    return torch.cat(found, 1)


@pytest.mark.parametrize(
    ("settings", "apart"),
    [
        ({}, 1e-6),
        ({"adapter": ADAPTER, "freeze_vision": True}, 1e-6),
        ({"dtype": "bfloat16"}, 1e-2),
    ],
)
def test_tree_rows(folder: Path, settings: dict[str, Any], apart: float) -> None:
    rows, media, _ = rows_and_media((0, 1), 80, episodes=2)
    # A GPU's attention here takes the plain form.
    with sdpa_kernel(SDPBackend.MATH):
        on_cpu = made(folder, "cpu", **settings)
        expected = learned(on_cpu, rows, media)
    with fake_cuda():
        on_gpu = made(folder, "cuda", **settings)
        found = learned(on_gpu, rows, media)
        on_gpu.vlm.to("cpu")
    assert len(rows) > 1
    assert expected[0].std() > 0.3
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert gradients(on_cpu.vlm)
    assert relative(on_gpu.vlm, on_cpu.vlm) <= apart


@pytest.mark.parametrize("settings", [{}, {"adapter": ADAPTER}])
def test_reference(folder: Path, settings: dict[str, Any]) -> None:
    rows, media, _ = rows_and_media((0,), episodes=2)
    patches = [Pixels(folder)([media[name] for name in row.images]) for row in rows]
    with sdpa_kernel(SDPBackend.MATH):
        [expected_N] = Reference(made(folder, "cpu")).logprobs(rows, patches, 1.0)
    with fake_cuda():
        reference = Reference(made(folder, "cuda", **settings), offload=True)
        [first_N] = reference.logprobs(rows, patches, 1.0)
        [again_N] = reference.logprobs(rows, patches, 1.0)
        assert first_N.is_cuda
        assert reference.policy.banned_V.is_cuda == bool(settings)
        torch.testing.assert_close(first_N.cpu(), expected_N, rtol=0, atol=0)
        torch.testing.assert_close(again_N.cpu(), expected_N, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masks_of_seg_tokens(folder: Path, dtype: str) -> None:
    """Drawn masks, calibrated log-probs, the mask loss with points, and a row without a mask."""

    def played(device: str) -> tuple[list[DrawnMask], list[Tensor]]:
        model = sam()
        policy = made(folder, device, dtype=dtype)
        mask_head = head(model).to(policy.vlm.dtype)
        frozen = FrameFeatures(model, TINY, device)
        seg = SegPolicy(policy, mask_head, frozen, SEG, SegOptions(points=0))
        [row], media, _, asked = case((0,), episodes=2)
        asked = requests_of_row(asked, row)
        patches = Pixels(folder)([media[name] for name in row.images])
        drawn = seg.draw(row, *patches, asked, frames())
        requests = []
        for request, mask in zip(asked, drawn, strict=True):
            sampled = mask.sampled if request.prompt.role == "keyframe" else None
            requests.append(replace(request, sampled=sampled))
        requests = with_loss_weights(requests, 0.2)
        output = seg(row, *patches, 1.0, requests, frames())
        assert output.auxiliary is not None
        (output.logprob_N.sum() + output.auxiliary).backward()
        without = seg(row, *patches, 1.0, [], {})
        found = [output.logprob_N, output.auxiliary, without.logprob_N]
        found += [parameter.grad for parameter in seg.head.parameters() if parameter.requires_grad]
        return drawn, [tensor.detach().cpu() for tensor in found]

    with sdpa_kernel(SDPBackend.MATH):
        expected_drawn, expected = played("cpu")
    with fake_cuda():
        drawn, found = played("cuda")
    assert expected[1] > 0
    for ours, theirs in zip(drawn, expected_drawn, strict=True):
        assert ours.rle == theirs.rle
        np.testing.assert_array_equal(ours.sampled.bits, theirs.sampled.bits)
    # Gradients differ in the order of sums.
    apart = 1e-5 if dtype == "float32" else 2e-2
    for figure, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(figure, wanted, rtol=apart, atol=apart)
