"""The log-prob of a [SEG] token that counts the mask drawn at it: SEG-aware logit calibration of VideoSEG-O3.

A [SEG] is treated as one action, "say [SEG], and draw this mask", whose pixels are independent coin tosses: a good
advantage moves the decoder towards the mask that was drawn, a bad one away from it (SPEC B.5). The term is added to
the log-prob of one token; it is no bias on the vocabulary's logits, despite its name. It belongs into the policy
gradient only: KL stays a matter of text. Pure functions of tensors of any float type; they know no row and no model.

Letters: N trained tokens, C masks that are calibrated, s the side of the grid on which they are judged.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SIDE = 32  # of the grid
THRESHOLD = 0.5  # on logits, as released; the pixel is likelier than not from 0 on


def shrink(logits_Chw: Tensor, side: int = SIDE) -> Tensor:
    """Mask logits on the grid, (C, side, side), bilinear as released."""
    return F.interpolate(
        logits_Chw[:, None], size=(side, side), mode="bilinear", align_corners=False
    )[:, 0]


def drawn_bits(logits_Css: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """The mask that counts as drawn, bool (C, s, s): y = 1[Z_old > threshold]. It is remembered for the update."""
    return logits_Css.detach() > threshold


def log_likelihood(logits_Css: Tensor, bits_Css: Tensor) -> Tensor:
    """How likely a mask is under mask logits, (C,), at most 0:

        l = mean over the grid of  y log sigmoid(Z) + (1 - y) log(1 - sigmoid(Z))

    The mean, not the sum, which would drown the one token that it is added to.
    """
    taken_Css = bits_Css.to(logits_Css.dtype)
    return -F.binary_cross_entropy_with_logits(logits_Css, taken_Css, reduction="none").mean(
        dim=(1, 2)
    )


def calibrate(logprob_N: Tensor, token_C: Tensor, loglik_C: Tensor, weight: float = 1.0) -> Tensor:
    """log p([SEG]) + weight * l at the tokens `token_C` (indices into N), all others as they are; (N,).

    The release, which is on policy, adds this to the current log-prob alone. Several masks of one token add up.
    With weight 0 the result is `logprob_N` itself.
    """
    if weight == 0 or not len(token_C):
        return logprob_N
    return logprob_N.index_add(0, token_C, (weight * loglik_C).to(logprob_N.dtype))


def calibrate_change(
    logprob_N: Tensor, token_C: Tensor, loglik_C: Tensor, old_C: Tensor, weight: float = 1.0
) -> Tensor:
    """Calibrated log-probs to be compared with *textual* old ones; right off policy too (ours). (N,)

        ratio = exp(log p + w l - log p_old - w l_old) = exp(calibrate_change(..) - log p_old)

    old_C: l_old of the same bits, under the weights that drew the mask, as stored. It is a constant: the gradient is
    that of `calibrate`, and on policy, where l = l_old, the value is the textual log-prob and the ratio is 1.
    """
    return calibrate(logprob_N, token_C, loglik_C - old_C.detach(), weight)
