"""Tree rows against the plain way: one padded row for each episode, the model's own positions, masks and log-probs."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from core import batch, grpo
from core.types import End
from models.policy.policy import CHUNK_BYTES, Pixels, Policy, chunk_of
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
    return (
        build_qwen3(path) if request.param == "qwen3" else build(path, tie=request.param == "tied")
    )


def in_row_order(rows_out, rows, found):
    """Our (logprob_N, entropy_N) and the reference's, aligned."""
    ours = []
    theirs = []
    for (logprob_N, entropy_N), row in zip(rows_out, rows, strict=True):
        seen: dict[int, int] = {}
        for i, e in enumerate(row.episode_N.tolist()):
            k = seen.get(e, 0)
            seen[e] = k + 1
            ours.append(torch.stack([logprob_N[i], entropy_N[i]]))
            theirs.append(torch.stack(found[e, k]))
    return torch.stack(ours), torch.stack(theirs)


def plain(folder):
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).train()


@pytest.mark.parametrize(
    "seeds, budget, checkpointing",
    [((0,), 10**6, False), ((0, 1, 2), 10**6, False), ((0, 1), 120, False), ((0, 1), 10**6, True)],
    ids=["one group", "three packed", "split by branches", "checkpointing"],
)
def test_tree_rows_equal_rows_of_episodes(folder, seeds, budget, checkpointing):
    pixels = Pixels(folder)
    policy = Policy(folder, allowed_ids=ALLOWED, gradient_checkpointing=checkpointing, chunk=7)
    rows, media, groups = rows_and_media(seeds, budget)
    model = plain(folder)
    theirs_by_token = reference(model, pixels, groups, media, 0.8, banned_ids())
    outputs = [run(policy, pixels, row, media, 0.8) for row in rows]
    ours, theirs = in_row_order(outputs, rows, theirs_by_token)
    assert len(ours) == sum(sum(grpo.trained_tokens(g)) for g in groups)
    assert theirs[:, 0].std() > 0.5
    assert (ours - theirs).abs().max() <= 1e-5
    signs = torch.linspace(-1, 1, len(ours))[
        torch.randperm(len(ours), generator=torch.Generator().manual_seed(0))
    ]
    (ours * torch.stack([signs, 0.1 * signs.flip(0)], 1)).sum().backward()
    (theirs * torch.stack([signs, 0.1 * signs.flip(0)], 1)).sum().backward()
    assert relative(policy.vlm, model) <= 1e-5


def test_siblings_are_invisible_and_the_test_would_notice(folder):
    """Negative control: with one branch's segment joined to its sibling's, the log-probs move."""
    rows, media, _ = rows_and_media((0,))
    policy = Policy(folder, allowed_ids=ALLOWED)
    pixels = Pixels(folder)
    (p0, p1, spans) = rows[0].segments[0]
    row = rows[0]
    joined = dataclasses.replace(
        row, segments=((p0, p1, ((spans[0][0], spans[1][1]), *spans[2:])),)
    )
    with torch.no_grad():
        gap = (run(policy, pixels, row, media)[0] - run(policy, pixels, joined, media)[0]).abs()
    second = torch.tensor(row.episode_N == row.episode_N.max() - 2)
    assert gap[second].max() > 1e-2
    assert gap[torch.tensor(row.episode_N == 0)].max() == 0


def test_positions_equal_the_models_own(folder):
    model = plain(folder)
    group, _ = random_group(5, frames=3)
    for episode in group.episodes:
        ids = [i for t in episode.turns for i in (*t.prompt_ids, *t.completion_ids)]
        media = [m for t in episode.turns for m in t.media]
        grid = torch.tensor([[1, m.view.height // 14, m.view.width // 14] for m in media])
        ids_1T = torch.tensor([ids])
        theirs = model.model.get_rope_index(
            ids_1T, (ids_1T == LAYOUT.token_id).int(), image_grid_thw=grid
        )[0][:, 0]
        ours = batch.mrope_positions(ids, [LAYOUT.grid(m) for m in media], LAYOUT.token_id)
        np.testing.assert_array_equal(ours, theirs.numpy())


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
    run(policy, Pixels(folder), rows[0], media)[0].sum().backward()
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
    ours, theirs = in_row_order(
        [run(policy, pixels, row, {})], [row], _text_reference(folder, group)
    )
    assert (ours - theirs).abs().max() <= 1e-5


def _text_reference(folder, group):
    found = {}
    model = copy.deepcopy(plain(folder))
    for e, episode in enumerate(group.episodes):
        (turn,) = episode.turns
        ids = torch.tensor([[*turn.prompt_ids, *turn.completion_ids]])
        logprobs_TV = model(input_ids=ids).logits[0].log_softmax(-1)
        for k, token in enumerate(turn.completion_ids):
            p = logprobs_TV[len(turn.prompt_ids) + k - 1]
            found[e, k] = (p[token], -(p.exp() * p).sum())
    return found


def test_flex_attention_gives_the_same_log_probs(folder):
    """Its block mask, forward only: flex_attention has no backward on the CPU."""
    rows, media, _ = rows_and_media((0, 1))
    pixels = Pixels(folder)
    split = Policy(folder, allowed_ids=ALLOWED, attention="split")
    flex = Policy(folder, allowed_ids=ALLOWED, attention="flex")
    with torch.no_grad():
        expected = run(split, pixels, rows[0], media)[0]
        found = run(flex, pixels, rows[0], media)[0]
    assert (found - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("vocabulary, expected", [(556, 512), (151_936, 110), (10**9, 1)])
def test_chunks_follow_the_vocabulary(vocabulary, expected):
    assert chunk_of(vocabulary, "cpu") == expected <= chunk_of(vocabulary, "cuda")
    assert expected == 1 or 4 * vocabulary * expected <= CHUNK_BYTES["cpu"]
