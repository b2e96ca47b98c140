"""Tree rows of random groups, what a policy says of them, and how far two models' gradients are apart."""

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
    return batch.rows_of_ranks(forest, 1, budget, LAYOUT)[0], media, groups


def run(policy, pixels, row, media, temperature=1.0):
    return policy(row, *pixels([media[d] for d in row.images]), temperature)


def relative(ours, theirs):
    """Norm of the difference of the gradients, over that of `theirs`."""
    a = dict(ours.named_parameters())
    b = dict(theirs.named_parameters())
    assert {n for n, p in a.items() if p.grad is not None} == {
        n for n, p in b.items() if p.grad is not None
    }
    difference = sum(
        float((a[n].grad - b[n].grad).double().pow(2).sum()) for n in b if b[n].grad is not None
    )
    return (
        difference
        / sum(float(p.grad.double().pow(2).sum()) for p in b.values() if p.grad is not None)
    ) ** 0.5
