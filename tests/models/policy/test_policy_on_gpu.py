"""Tree rows by flex_attention and a vision tower in one call, which need a GPU.

The same log-probs and gradients as the exact forms.
"""

import numpy as np
import pytest
import torch
import torch._dynamo

from models.policy.pixels import Pixels
from models.policy.policy import Policy
from models.policy.window_attention import VARLEN, WINDOWS
from tests.models.policy_rows import relative, rows_and_media, run
from tests.models.tiny_qwen import ALLOWED, build, build_qwen3

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module", params=["qwen2_5", "qwen3"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen")
    return build_qwen3(path) if request.param == "qwen3" else build(path)


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """On, as in a run on a GPU; the environment of the other tests switches it off."""
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    monkeypatch.setattr(torch._dynamo.config, "disable", False)


def learned(policy, pixels, rows, media):
    """Log-probs and entropies of all rows (2, N) on the CPU.

    Leaves the gradients of a mixed-sign loss.
    """
    found = []
    for row in rows:
        output = run(policy, pixels, row, media)
        found_2N = torch.stack([output.logprob_N, output.entropy_N])
        signs_N = torch.linspace(-1, 1, found_2N.shape[1], device=found_2N.device)
        signs_2N = torch.stack([signs_N, 0.1 * signs_N.flip(0)])
        (found_2N * signs_2N).sum().backward()
        found.append(found_2N)
    return torch.cat(found, 1).detach().float().cpu()


@pytest.mark.parametrize(
    ("seeds", "budget"),
    [
        ((0,), 10**6),
        ((0, 1, 2), 10**6),
        ((0, 1), 120),
    ],
)
def test_flex_rows_equal_split_rows(folder, seeds, budget):
    rows, media, _ = rows_and_media(seeds, budget)
    pixels = Pixels(folder)
    exact = Policy(folder, allowed_ids=ALLOWED, attention="split")
    flex = Policy(folder, allowed_ids=ALLOWED, attention="flex", device="cuda")
    expected = learned(exact, pixels, rows, media)
    found = learned(flex, pixels, rows, media)
    assert expected[0].std() > 0.3
    assert (found - expected).abs().max() <= 1e-4
    flex.vlm.to("cpu")
    assert relative(flex.vlm, exact.vlm) <= 1e-4


def test_bfloat16_rows_are_near(folder):
    rows, media, _ = rows_and_media((0, 1, 2))
    pixels = Pixels(folder)
    exact = Policy(folder, allowed_ids=ALLOWED, attention="split")
    rounded = Policy(folder, allowed_ids=ALLOWED, attention="auto", device="cuda", dtype="bfloat16")
    expected = learned(exact, pixels, rows, media)
    found = learned(rounded, pixels, rows, media)
    gap_N = (found[0] - expected[0]).abs().numpy()
    assert 0 < gap_N.mean() < 3e-2
    assert np.isfinite(found).all()


def test_the_tower_in_one_call_is_near_its_windows(folder):
    rows, media, _ = rows_and_media((0, 1, 2))
    pixels = Pixels(folder)
    policies = []
    found = []
    for attention in (VARLEN, WINDOWS):
        policy = Policy(
            folder, allowed_ids=ALLOWED, attention="flex", device="cuda", dtype="bfloat16"
        )
        policy.vlm.set_attn_implementation({"vision_config": attention})
        found.append(learned(policy, pixels, rows, media))
        policies.append(policy.vlm)
    assert (found[0] - found[1]).abs().max() < 3e-2
    assert relative(*policies) < 3e-2
