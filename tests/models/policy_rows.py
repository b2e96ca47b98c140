"""Tree rows of random groups, a policy's output for them, and the distance of gradients."""

from typing import Any

from core import batch, grpo
from tests.models.tiny_qwen import ID, random_group

LAYOUT = batch.ImageLayout(ID["<|image_pad|>"], 28)


def rows_and_media(seeds, budget=10**6, **kwargs):
    """Rows of a budget of tokens of one random group a seed, pixels by digest, and the groups."""
    forest = []
    media: dict[str, Any] = {}
    groups = []
    first = 0
    for i, seed in enumerate(seeds):
        group, table = random_group(seed, **kwargs)
        credit = grpo.credit(group, per_turn=False, std=True, eps=1e-6)
        forest += batch.trees(group, i, credit, [1.0] * len(group.episodes), first)
        first += len(group.episodes)
        media |= table
        groups.append(group)
    [rows] = batch.deal(forest, 1, budget)
    return [batch.build_row(row, LAYOUT) for row in rows], media, groups


def run(policy, pixels, row, media, temperature=1.0):
    return policy(row, *pixels([media[d] for d in row.images]), temperature)


def relative(ours, theirs):
    """Norm of the difference of two models' gradients, over the norm of the second's."""
    found = gradients(ours)
    expected = gradients(theirs)
    assert set(found) == set(expected)
    difference = 0.0
    total = 0.0
    for name, gradient in expected.items():
        difference += float((found[name] - gradient).double().pow(2).sum())
        total += float(gradient.double().pow(2).sum())
    return (difference / total) ** 0.5


def gradients(model):
    """The gradients of the parameters that have one, by name."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad
    return found
