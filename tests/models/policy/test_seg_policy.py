"""One pass over a tree row: masks at [SEG], calibrated log-probs, the mask loss, gradients."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForImageTextToText

from core.drawing.calibration import log_likelihood
from core.drawing.losses import mask_loss
from core.drawing.requests import requests_of_row, seg_tokens, with_loss_weights
from core.masks import decode, encode
from models.policy.mask_head import resize_logits
from models.policy.pixels import Pixels
from models.policy.seg_policy import SegOptions, SegPolicy, attach, shrink_truth
from models.segmenters.sam2_shape import TINY
from tests.models.policy_rows import gradients
from tests.models.seg_cases import SEG, asked_of, case, frames, sam, seg_policy
from tests.models.tiny_qwen import ID, build, build_qwen3


@pytest.fixture(scope="module", params=["qwen2.5", "qwen3"])
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("qwen")
    return build_qwen3(path) if request.param == "qwen3" else build(path)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("qwen"))


def patches(folder: Path, row, media) -> tuple[torch.Tensor, torch.Tensor]:
    return Pixels(folder)([media[d] for d in row.images])


def mask_states(folder: Path, groups, media) -> dict[tuple[int, int, int], torch.Tensor]:
    """Hidden state of each [SEG] by (episode, turn, position), from transformers' own forward."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    found: dict[tuple[int, int, int], torch.Tensor] = {}
    number = 0
    for group in groups:
        for episode in group.episodes:
            ids = []
            at: dict[tuple[int, int], int] = {}
            shown = []
            for t, turn in enumerate(episode.turns):
                ids += turn.prompt_ids
                for position, token in enumerate(turn.completion_ids):
                    if token == SEG:
                        at[t, position] = len(ids) + position
                ids += turn.completion_ids
                shown += [media[m.digest] for m in turn.media]
            pixels, grid = Pixels(folder)(shown)
            ids_1T = torch.tensor([ids])
            with torch.no_grad():
                states_TD = model(
                    input_ids=ids_1T,
                    pixel_values=pixels,
                    image_grid_thw=grid,
                    output_hidden_states=True,
                    mm_token_type_ids=(ids_1T == ID["<|image_pad|>"]).int(),
                ).hidden_states[-1][0]
            for (t, position), place in at.items():
                found[number, t, position] = states_TD[place]
            number += 1
    return found


@pytest.mark.parametrize(
    ("seeds", "budget"),
    [((0,), 10**6), ((0, 1), 120)],
    ids=["one group", "split by branches"],
)
def test_masks_of_a_tree_row_equal_those_of_a_row_for_each_episode(folder, seeds, budget):
    policy = seg_policy(folder)
    rows, media, groups, asked = case(seeds, budget)
    states = mask_states(folder, groups, media)
    seen = 0
    for row in rows:
        mine = requests_of_row(asked, row)
        drawn = policy.mask_logits(row, *patches(folder, row, media), mine, frames())
        assert not drawn.logits_Mhw.requires_grad
        assert drawn.logits_Mhw.std() > 0.5
        for mask, logits_hw, token_C in zip(mine, drawn.logits_Mhw, drawn.token_MC, strict=True):
            state_1D = states[mask.episode, mask.prompt.turn, mask.prompt.position][None]
            with torch.no_grad():
                maps = policy.frozen([mask.digest], frames())
                (expected_hw,), (expected_C,) = policy.head(
                    state_1D, maps, torch.zeros(1, dtype=torch.int64)
                )
            assert (logits_hw - expected_hw).abs().max() <= 1e-4
            assert (token_C - expected_C).abs().max() <= 1e-4
            seen += 1
    assert seen == len(asked) > 8


def test_a_mask_is_drawn_from_the_state_at_seg_not_from_the_one_before(qwen):
    """Negative control: the state that predicts [SEG] gives other masks."""
    policy = seg_policy(qwen)
    (row,), media, _, asked = case()
    shown = patches(qwen, row, media)
    drawn = policy.mask_logits(row, *shown, asked, frames())
    at = seg_tokens(row, asked, SEG)
    with torch.no_grad():
        before_SD = policy.policy(row, *shown, 1.0, row.source_N[at.token_S]).hidden_SD
        maps = policy.frozen([request.digest for request in asked], frames())
        wrong, _ = policy.head(before_SD, maps, torch.as_tensor(at.seg_M))
    assert (wrong - drawn.logits_Mhw).abs().amax((1, 2)).min() > 0.1


def with_samples(policy: SegPolicy, row, shown, asked):
    """The same masks, their keyframes sampled as they are drawn now."""
    logits_Mhw = policy.mask_logits(row, *shown, asked, frames()).logits_Mhw
    samples = policy.sampled(logits_Mhw)
    found = []
    for request, sample in zip(asked, samples, strict=True):
        if request.prompt.role == "keyframe":
            request = replace(request, sampled=sample)
        found.append(request)
    return found


def moved(policy: SegPolicy, seed: int = 2) -> SegPolicy:
    """The same policy after some update of head and language model."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in [*policy.head.parameters(), *policy.vlm.parameters()]:
            if parameter.numel() > 1:
                parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
    return policy


def test_the_calibrated_log_prob_is_the_formula(folder):
    """The formula of docs/spec/videoseg_o3.md, with its sum over pixels written out.

    Masks have been sampled by other weights than these.
    """
    options = SegOptions(calibration=0.7)
    policy = seg_policy(folder, options)
    (row,), media, _, asked = case()
    shown = patches(folder, row, media)
    asked = with_samples(policy, row, shown, asked)
    policy = moved(policy)
    output = policy(row, *shown, 0.8, asked, frames())
    expected = output.text_logprob_N.detach().double().clone()
    at = seg_tokens(row, asked, SEG)
    for i, mask in enumerate(asked):
        if mask.sampled is None:
            continue
        z = resize_logits(output.logits_Mhw[i : i + 1], 32, 32)[0].detach().double()
        y = torch.as_tensor(mask.sampled.bits)
        loglik = 0.0
        for value, bit in zip(z.flatten(), y.flatten(), strict=True):
            loglik += float(torch.sigmoid(value if bit else -value).log())
        expected[at.token_S[at.seg_M[i]]] += 0.7 * (loglik / 1024 - mask.sampled.loglik)
    change_N = output.logprob_N - output.text_logprob_N
    assert (output.logprob_N - expected).abs().max() < 1e-5
    assert (change_N != 0).sum() == len(at.token_S)
    assert change_N.abs().max() > 1e-2


def test_on_policy_the_calibrated_log_prob_is_the_textual_one(qwen):
    policy = seg_policy(qwen)
    (row,), media, _, asked = case()
    shown = patches(qwen, row, media)
    asked = with_samples(policy, row, shown, asked)
    output = policy(row, *shown, 1.0, asked, frames())
    plain = policy.policy(row, *shown, 1.0)
    assert (output.logprob_N - output.text_logprob_N).abs().max() < 1e-6
    assert torch.equal(output.text_logprob_N, plain.logprob_N)


def test_with_weight_zero_everything_is_bit_identical_to_the_plain_policy(folder):
    """Log-probs, entropies and, after a backward pass, every gradient of the language model."""
    policy = seg_policy(folder, SegOptions(calibration=0.0))
    (row,), media, _, asked = case()
    shown = patches(folder, row, media)
    asked = moved_samples(policy, row, shown, asked)
    plain = copy.deepcopy(policy.policy)
    expected = plain(row, *shown, 0.8)
    found = policy(row, *shown, 0.8, asked, frames())
    without = policy(row, *shown, 0.8)
    assert torch.equal(found.logprob_N, expected.logprob_N)
    assert torch.equal(found.entropy_N, expected.entropy_N)
    assert without[2:] == (None,) * 5
    assert torch.equal(without.logprob_N, expected.logprob_N)

    signs_N = torch.linspace(-1, 1, len(found.logprob_N))
    (signs_N * expected.logprob_N).sum().backward()
    (signs_N * found.logprob_N).sum().backward()
    expected_gradients = gradients(plain.vlm)
    found_gradients = gradients(policy.vlm)
    assert set(found_gradients) == set(expected_gradients)
    for name, gradient in found_gradients.items():
        assert torch.equal(gradient, expected_gradients[name]), name
    assert all(p.grad is None for p in policy.head.parameters())


def moved_samples(policy: SegPolicy, row, shown, asked):
    """Samples of a policy that has since been updated.

    Their log-likelihoods are no longer those of now.
    """
    return with_samples(moved(copy.deepcopy(policy)), row, shown, asked)


def test_with_a_weight_the_log_probs_differ_so_the_test_above_could_fail(qwen):
    policy = seg_policy(qwen, SegOptions(calibration=1.0))
    (row,), media, _, asked = case()
    shown = patches(qwen, row, media)
    asked = moved_samples(policy, row, shown, asked)
    found = policy(row, *shown, 0.8, asked, frames())
    plain = policy.policy(row, *shown, 0.8)
    assert (found.logprob_N - plain.logprob_N).abs().max() > 1e-3


def surrogate(policy: SegPolicy, row, shown, asked, advantage: float) -> torch.Tensor:
    """GRPO's on-policy term on the calibrated part of the log-probs alone.

    The change of [SEG] by its mask.
    """
    output = policy(row, *shown, 1.0, asked, frames())
    change_N = output.logprob_N - output.text_logprob_N
    return -advantage * (change_N - change_N.detach()).exp().sum()


def seg_logliks(policy: SegPolicy, row, shown, asked) -> np.ndarray:
    logits_Mhw = policy.mask_logits(row, *shown, asked, frames()).logits_Mhw
    index_C = [i for i, request in enumerate(asked) if request.sampled is not None]
    bits = torch.as_tensor(np.stack([asked[i].sampled.bits for i in index_C]))
    assert 0.05 < bits.float().mean() < 0.95
    small_Css = resize_logits(logits_Mhw[index_C], 32, 32)
    return log_likelihood(small_Css, bits).numpy()


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("part", ["head", "vlm"])
def test_a_good_advantage_moves_the_mask_towards_the_sample_and_a_bad_one_away(
    qwen, advantage, part
):
    """One small step on the head alone, or on the language model alone, with the head as it is."""
    policy = seg_policy(qwen)
    (row,), media, _, asked = case()
    shown = patches(qwen, row, media)
    asked = with_samples(policy, row, shown, asked)
    before_C = seg_logliks(policy, row, shown, asked)
    surrogate(policy, row, shown, asked, advantage).backward()
    parameters = [p for p in getattr(policy, part).parameters() if p.grad is not None]
    norm = torch.stack([p.grad.norm() for p in parameters]).norm()
    with torch.no_grad():
        for p in parameters:
            p -= 2e-3 * p.grad / norm
    change_C = seg_logliks(policy, row, shown, asked) - before_C
    assert np.sign(change_C.mean()) == np.sign(advantage)
    assert abs(change_C.mean()) > 1e-6
    if part == "head":
        assert (np.sign(change_C) == np.sign(advantage)).mean() >= 0.8


def test_gradients_reach_language_model_mlp_and_decoder_and_not_the_image_encoder(folder):
    """Each of the two losses alone, and only at [SEG] and before it."""
    policy = seg_policy(folder)
    (row,), media, groups, asked = case()
    shown = patches(folder, row, media)
    losses = {
        "calibration": lambda: surrogate(
            policy, row, shown, with_samples(policy, row, shown, asked), 1.0
        ),
        "auxiliary": lambda: (
            policy(row, *shown, 1.0, with_loss_weights(asked, 0.2), frames()).auxiliary
        ),
    }
    for name, loss in losses.items():
        policy.zero_grad(set_to_none=True)
        loss().backward()
        parts = {
            "mlp": policy.head.mlp,
            "decoder": policy.head.decoder,
            "language model": policy.vlm.model.language_model,
            "vision tower": policy.vlm.model.visual,
        }
        for part, module in parts.items():
            norms = [float(gradient.norm()) for gradient in gradients(module).values()]
            assert norms, (name, part)
            assert max(norms) > 0, (name, part)

        trained = {id(parameter) for parameter in policy.parameters()}
        for parameter in policy.frozen.sam.parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad
            assert id(parameter) not in trained
    assert len(groups) == 1
    assert not any("image_encoder" in n or "memory" in n for n in policy.state_dict())


def test_the_auxiliary_loss_is_weighted_over_the_batch_whatever_the_rows(qwen):
    policy = seg_policy(qwen, SegOptions(bce=2.0, dice=0.5))
    total = []
    for budget in (10**6, 120):
        rows, media, _, asked = case((0, 1), budget)
        asked = with_loss_weights(asked, 0.2)
        parts = [
            policy(
                row, *patches(qwen, row, media), 1.0, requests_of_row(asked, row), frames()
            ).auxiliary
            for row in rows
        ]
        assert len(parts) == (1 if budget > 1000 else len(rows))
        assert all(p > 0 for p in parts)
        total.append(sum(part.item() for part in parts))
    assert total[0] == pytest.approx(total[1], abs=1e-5)
    (row,), media, _, asked = case((0, 1))
    drawn = policy.mask_logits(row, *patches(qwen, row, media), asked, frames()).logits_Mhw
    truth_Mhw = torch.stack([shrink_truth(request.truth, drawn) for request in asked])
    loss_M = mask_loss(drawn, truth_Mhw, 2.0, 0.5)
    key_M = torch.tensor([request.prompt.role == "keyframe" for request in asked])
    expected = 0.2 * float(loss_M[key_M].mean() + loss_M[~key_M].mean())
    assert total[0] == pytest.approx(expected, abs=1e-5)


def test_the_auxiliary_loss_may_be_taken_at_points(qwen):
    (row,), media, _, asked = case()
    asked = with_loss_weights(asked, 0.2)
    policy = seg_policy(qwen, SegOptions(bce=2.0, dice=0.5, points=40))
    torch.manual_seed(3)
    auxiliary = policy(row, *patches(qwen, row, media), 1.0, asked, frames()).auxiliary
    drawn = policy.mask_logits(row, *patches(qwen, row, media), asked, frames()).logits_Mhw
    truth_Mhw = torch.stack([shrink_truth(m.truth, drawn) for m in asked])
    assert drawn[0].numel() > 40
    torch.manual_seed(3)
    loss_M = mask_loss(drawn, truth_Mhw, 2.0, 0.5, points=40)
    weight_M = torch.tensor([request.weight for request in asked])
    expected = float((weight_M * loss_M).sum())
    assert auxiliary.item() == pytest.approx(expected, rel=1e-5)

    loss_of_all_pixels_M = mask_loss(drawn, truth_Mhw, 2.0, 0.5)
    of_all_pixels = float((weight_M * loss_of_all_pixels_M).sum())
    assert expected != pytest.approx(of_all_pixels, rel=1e-3)
    auxiliary.backward()
    assert any(p.grad is not None and p.grad.any() for p in policy.vlm.parameters())


def test_a_dummy_row_and_a_row_without_masks_run_the_head_and_add_nothing(qwen):
    policy = seg_policy(qwen)
    (row,), media, _, asked = case()
    shown = patches(qwen, row, media)
    dummy = replace(row, weight_N=np.zeros_like(row.weight_N))
    for one, masks in ((dummy, with_loss_weights(asked, 0.2)), (row, [])):
        policy.zero_grad(set_to_none=True)
        output = policy(one, *shown, 1.0, masks, frames())
        assert output.auxiliary.item() == 0.0
        assert torch.equal(output.logprob_N, output.text_logprob_N)
        (output.logprob_N.sum() * 0.0 + output.auxiliary).backward()
        # Ranks must reduce the same set of gradients.
        for parameter in policy.head.parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None
                assert not parameter.grad.any()


def test_a_truth_is_shrink_truth_to_shares_of_the_decoders_cells():
    truth_HW = np.zeros((4, 8), bool)
    truth_HW[:2, :3] = True
    assert shrink_truth(encode(truth_HW), torch.zeros(1, 2, 4)).tolist() == [
        [1.0, 0.5, 0.0, 0.0],
        [0.0] * 4,
    ]
    assert not shrink_truth(None, torch.zeros(1, 2, 4)).any()


def test_a_sample_is_what_exceeds_the_threshold_on_the_small_grid(qwen):
    policy = seg_policy(qwen, SegOptions(side=4))
    logits_Mhw = torch.linspace(-2, 2, 64).reshape(1, 8, 8)
    (sample,) = policy.sampled(logits_Mhw)
    small = F.interpolate(logits_Mhw[None], size=(4, 4), mode="bilinear")[0, 0]
    np.testing.assert_array_equal(sample.bits, (small > 0.5).numpy())
    assert 0 < sample.bits.sum() < (small > 0).sum()
    assert sample.loglik == pytest.approx(float(log_likelihood(small[None], small[None] > 0.5)))


def test_what_is_drawn_travels_as_rewards_calibration_and_segmenter_need_it(qwen):
    policy = seg_policy(qwen)
    (row,), media, _, asked = case()
    shown = patches(qwen, row, media)
    for i in range(1, len(asked), 4):
        asked[i] = replace(asked[i], prompt=replace(asked[i].prompt, role="final"))
    drawn = policy.mask_logits(row, *shown, asked, frames())
    made = policy.draw(row, *shown, asked, frames())
    for i, (mask, one) in enumerate(zip(asked, made, strict=True)):
        size = frames()[mask.digest].shape[:2]
        logits_11hw = drawn.logits_Mhw[i][None, None]
        expected_HW = F.interpolate(logits_11hw, size, mode="bilinear")[0, 0] > 0
        np.testing.assert_array_equal(decode(one.rle), expected_HW.numpy())
        assert (one.prompt is not None) == (i % 4 == 1)
        if one.prompt is not None:
            assert one.prompt.frame == mask.prompt.frame
            np.testing.assert_array_equal(one.prompt.logits_hw, drawn.logits_Mhw[i])
            np.testing.assert_array_equal(one.prompt.token_C, drawn.token_MC[i])
    expected_logliks = [sample.loglik for sample in policy.sampled(drawn.logits_Mhw)]
    assert [one.sampled.loglik for one in made] == expected_logliks
    assert policy.draw(row, *shown, [], {}) == []


def test_a_policy_is_saved_and_attached_with_its_head(folder, tmp_path):
    policy = seg_policy(folder)
    model = sam()
    with pytest.raises(ValueError, match="has no mask head"):
        attach(policy.policy, tmp_path, model, TINY, SEG)
    fresh = attach(policy.policy, tmp_path, model, TINY, SEG, fresh=True)
    policy.head.save(tmp_path)
    again = attach(policy.policy, tmp_path, model, TINY, SEG, fresh=True)
    (row,), media, _, asked = case()
    ask = (row, *patches(folder, row, media), asked, frames())
    expected = policy.mask_logits(*ask).logits_Mhw
    new = fresh.mask_logits(*ask).logits_Mhw
    found = again.mask_logits(*ask).logits_Mhw
    assert torch.equal(found, expected)
    assert not torch.equal(new, expected)


def test_masks_must_be_asked_for_at_seg(qwen):
    policy = seg_policy(qwen)
    (row,), media, groups, asked = case()
    wrong = [replace(asked[0], prompt=replace(asked[0].prompt, position=1))]
    with pytest.raises(ValueError, match=r"token 1 of turn 0 .*not \[SEG\]"):
        policy.mask_logits(row, *patches(qwen, row, media), wrong, frames())
    assert len(asked_of(groups[0])) == len(asked)
