"""Tree rows against the plain way.

One padded row for each episode, the model's own positions, masks and log-probs.
"""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from core import batch, grpo
from core.types import End, Media
from models import progress
from models.policy.logprob_head import CHUNK_BYTES, chunk_of
from models.policy.pixels import Pixels
from models.policy.policy import Policy
from tests.models.policy_rows import LAYOUT, relative, rows_and_media, run
from tests.models.tiny_qwen import (
    ALLOWED,
    VOCABULARY,
    banned_ids,
    build,
    build_qwen3,
    random_group,
    reference,
)


@pytest.fixture(scope="module", params=["tied", "untied", "qwen3"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen")
    if request.param == "qwen3":
        return build_qwen3(path)
    return build(path, tie=request.param == "tied")


def in_row_order(outputs, rows, reference_of):
    """Log-probs and entropies of the rows and of the reference, both (N, 2), in one order."""
    found = []
    expected = []
    for output, row in zip(outputs, rows, strict=True):
        seen: Counter[int] = Counter()
        for i, episode in enumerate(row.episode_N.tolist()):
            token = seen[episode]
            seen[episode] += 1
            found.append(torch.stack([output.logprob_N[i], output.entropy_N[i]]))
            expected.append(torch.stack(reference_of[episode, token]))
    return torch.stack(found), torch.stack(expected)


def plain(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).train()


@pytest.mark.parametrize(
    ("seeds", "budget", "checkpointing"),
    [
        ((0,), 10**6, False),
        ((0, 1, 2), 10**6, False),
        ((0, 1), 120, False),
        ((0, 1), 10**6, True),
    ],
    ids=["one group", "three packed", "split by branches", "checkpointing"],
)
def test_tree_rows_equal_rows_of_episodes(folder, seeds, budget, checkpointing):
    pixels = Pixels(folder)
    policy = Policy(folder, allowed_ids=ALLOWED, gradient_checkpointing=checkpointing, chunk=7)
    rows, media, groups = rows_and_media(seeds, budget)
    model = plain(folder)
    by_token = reference(model, pixels, groups, media, 0.8, banned_ids())
    outputs = [run(policy, pixels, row, media, 0.8) for row in rows]
    found_N2, expected_N2 = in_row_order(outputs, rows, by_token)

    assert len(found_N2) == sum(sum(grpo.trained_tokens(g)) for g in groups)
    assert expected_N2[:, 0].std() > 0.5
    assert (found_N2 - expected_N2).abs().max() <= 1e-5

    # A loss of mixed signs on log-probs and entropies.
    order_N = torch.randperm(len(found_N2), generator=torch.Generator().manual_seed(0))
    signs_N = torch.linspace(-1, 1, len(found_N2))[order_N]
    signs_N2 = torch.stack([signs_N, 0.1 * signs_N.flip(0)], 1)
    (found_N2 * signs_N2).sum().backward()
    (expected_N2 * signs_N2).sum().backward()
    assert relative(policy.vlm, model) <= 1e-5


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pass_over_one_row_shows_progress_in_every_block(folder, monkeypatch, checkpointing):
    """On a CPU a row of a large model lasts longer than `cluster.hang_s`."""
    ticks: list[str] = []
    monkeypatch.setattr(progress, "tick", lambda: ticks.append("block"))
    policy = Policy(folder, allowed_ids=ALLOWED, gradient_checkpointing=checkpointing)
    rows, media, _ = rows_and_media((0,))
    output = run(policy, Pixels(folder), rows[0], media)
    config = policy.vlm.config
    blocks = config.get_text_config().num_hidden_layers + config.vision_config.depth
    assert len(ticks) >= blocks

    ticks.clear()
    output.logprob_N.sum().backward()
    assert len(ticks) >= blocks


def test_siblings_are_invisible_and_the_test_would_notice(folder):
    """Negative control: with one branch's segment joined to its sibling's, the log-probs move."""
    rows, media, _ = rows_and_media((0,))
    policy = Policy(folder, allowed_ids=ALLOWED)
    pixels = Pixels(folder)
    row = rows[0]
    start, stop, branches = row.segments[0]
    first, second, *others = branches
    merged = (first[0], second[1])
    joined = dataclasses.replace(row, segments=((start, stop, (merged, *others)),))
    with torch.no_grad():
        apart_N = run(policy, pixels, row, media).logprob_N
        joined_N = run(policy, pixels, joined, media).logprob_N

    gap_N = (apart_N - joined_N).abs()
    of_second_N = torch.tensor(row.episode_N == row.episode_N.max() - 2)
    of_first_N = torch.tensor(row.episode_N == 0)
    assert gap_N[of_second_N].max() > 1e-2
    # Not zero on every CPU: attention of another shape may add up in another order.
    assert gap_N[of_first_N].max() < 1e-5


def test_positions_equal_the_models_own(folder):
    model = plain(folder)
    group, _ = random_group(5, frames=3)
    for episode in group.episodes:
        ids = []
        media: list[Media] = []
        for turn in episode.turns:
            ids += [*turn.prompt_ids, *turn.completion_ids]
            media += turn.media

        ids_1T = torch.tensor([ids])
        is_image_1T = (ids_1T == LAYOUT.token_id).int()
        patches = [(1, m.view.height // 14, m.view.width // 14) for m in media]
        grid_U3 = torch.tensor(patches)
        expected, _ = model.model.get_rope_index(ids_1T, is_image_1T, image_grid_thw=grid_U3)
        grids = [LAYOUT.grid(m) for m in media]
        found_3T = batch.mrope_positions(ids, grids, LAYOUT.token_id)
        np.testing.assert_array_equal(found_3T, expected[:, 0].numpy())


def test_the_layout_is_read_from_the_model(folder):
    assert Policy(folder, allowed_ids=ALLOWED).layout == LAYOUT


def test_a_trained_token_outside_the_allowed_ids_is_an_error(folder):
    rows, media, _ = rows_and_media((0,))
    policy = Policy(folder, allowed_ids=range(20))
    with pytest.raises(ValueError, match="not in allowed_ids"):
        run(policy, Pixels(folder), rows[0], media)


def test_frozen_vision_gets_no_gradient(folder):
    rows, media, _ = rows_and_media((0,))
    policy = Policy(folder, allowed_ids=ALLOWED, freeze_vision=True)
    run(policy, Pixels(folder), rows[0], media).logprob_N.sum().backward()
    grads = {n: p.grad for n, p in policy.vlm.named_parameters()}
    assert all(g is None for n, g in grads.items() if "visual" in n)
    assert any(g is not None for g in grads.values())


def test_an_image_the_processor_would_resize_is_an_error(folder):
    with pytest.raises(ValueError, match="resized"):
        Pixels(folder)([np.zeros((50, 84, 3), np.uint8)])


def test_text_without_images_needs_no_vision(folder):
    group, _ = random_group(0, frames=0, second_turns=False)
    (tree,) = batch.trees(group, 0, [(0.0,)] * 4, [1.0] * 4, 0)
    row = batch.build_row([tree], LAYOUT)
    policy = Policy(folder, allowed_ids=range(VOCABULARY))
    pixels = Pixels(folder)
    assert group.episodes[0].end is End.DONE
    output = run(policy, pixels, row, {})
    found_N2, expected_N2 = in_row_order([output], [row], text_reference(folder, group))
    assert (found_N2 - expected_N2).abs().max() <= 1e-5


def text_reference(folder, group):
    """(logprob, entropy) by (episode, token), from transformers' forward of text alone."""
    found = {}
    model = plain(folder)
    for number, episode in enumerate(group.episodes):
        (turn,) = episode.turns
        ids_1T = torch.tensor([[*turn.prompt_ids, *turn.completion_ids]])
        logprobs_TV = model(input_ids=ids_1T).logits[0].log_softmax(-1)
        for k, token in enumerate(turn.completion_ids):
            logprobs_V = logprobs_TV[len(turn.prompt_ids) + k - 1]
            entropy = -(logprobs_V.exp() * logprobs_V).sum()
            found[number, k] = (logprobs_V[token], entropy)
    return found


def test_flex_attention_gives_the_same_log_probs(folder):
    """Its block mask, forward only: flex_attention has no backward on the CPU."""
    rows, media, _ = rows_and_media((0, 1))
    pixels = Pixels(folder)
    split = Policy(folder, allowed_ids=ALLOWED, attention="split")
    flex = Policy(folder, allowed_ids=ALLOWED, attention="flex")
    with torch.no_grad():
        expected_N = run(split, pixels, rows[0], media).logprob_N
        found_N = run(flex, pixels, rows[0], media).logprob_N
    assert (found_N - expected_N).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("vocabulary", "expected"),
    [
        (556, 512),
        (151_936, 110),
        (10**9, 1),
    ],
)
def test_chunks_follow_the_vocabulary(vocabulary, expected):
    assert chunk_of(vocabulary, "cpu") == expected
    assert chunk_of(vocabulary, "cuda") >= expected
    fits = 4 * vocabulary * expected <= CHUNK_BYTES["cpu"]
    assert fits or expected == 1
