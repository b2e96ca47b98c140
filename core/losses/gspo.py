"""GSPO (arXiv 2507.18071, Sec. 4): the ratio of a whole answer, by its length, is clipped instead of a token's.

Its bounds are far closer than a token's: the authors clip at 3e-4 and 4e-4 (Sec. 5.1).
"""

from __future__ import annotations

from torch import Tensor

from core.losses import grpo
from core.losses.surrogate import Bounds, Surrogate, episode_mean


def loss(
    logprob_N: Tensor, old_N: Tensor, advantage_N: Tensor, episode_N: Tensor, bounds: Bounds
) -> Surrogate:
    """-min(s A, clip(s, 1 - low, 1 + high) A), s = exp(mean over the episode's tokens of logprob - old).

    In the form of GSPO-token (Sec. 4.3): s carries, at token t, the gradient of t's own log-prob. Value and
    gradient are those of GSPO where all tokens of an episode have one advantage and one weight; where turns have
    advantages of their own, each token is moved by its own. All turns of an episode are one answer here.
    """
    sequence_N = episode_mean((logprob_N - old_N).detach(), episode_N)
    of_token_N = logprob_N - logprob_N.detach()  # 0, with the gradient of the log-prob
    return grpo.loss(
        sequence_N + of_token_N, sequence_N.new_zeros(()), advantage_N, episode_N, bounds
    )
