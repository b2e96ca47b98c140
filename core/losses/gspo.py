"""GSPO (arXiv 2507.18071, Sec. 4): clips the ratio of a whole answer, normalised by its length.

Its bounds are far closer than a token's: the authors clip at 3e-4 and 4e-4 (Sec. 5.1).
"""

from __future__ import annotations

from torch import Tensor

from core.losses import grpo
from core.losses.surrogate import ClipBounds, Surrogate, episode_mean


def loss(
    logprob_N: Tensor,
    old_N: Tensor,
    advantage_N: Tensor,
    episode_N: Tensor,
    bounds: ClipBounds,
) -> Surrogate:
    """Return -min(s A, clip(s, 1 - low, 1 + high) A) with the sequence's ratio s.

        s = exp(mean over the episode's tokens of logprob - old)

    This is the form of GSPO-token (Sec. 4.3): at token t, s carries the gradient of t's own
    log-prob. Value and gradient are those of GSPO if all tokens of an episode have one advantage
    and one weight. If turns have advantages of their own, each token is moved by its own. All turns
    of an episode count as one answer here.
    """
    sequence_N = episode_mean((logprob_N - old_N).detach(), episode_N)
    # Zero, with the gradient of the log-prob.
    own_gradient_N = logprob_N - logprob_N.detach()
    zero = sequence_N.new_zeros(())
    return grpo.loss(sequence_N + own_gradient_N, zero, advantage_N, episode_N, bounds)
