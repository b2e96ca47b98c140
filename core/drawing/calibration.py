"""SEG-aware logit calibration of VideoSEG-O3: a [SEG] token's log-prob counts the mask drawn at it.

A [SEG] is one action, "say [SEG], and draw this mask"; its pixels are independent coin tosses. A
good advantage moves the decoder towards the drawn mask, a bad one away from it. The term is added
to the log-prob of one token; despite its name it does not shift the vocabulary's logits. It belongs
to the policy gradient only: the KL compares text alone.

Source: docs/spec/videoseg_o3.md, Logit calibration.

Letters: N trained tokens, C calibrated masks, s side of the judging grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# Pixels on a side of the grid.
SIDE = 32
# On logits, as released. A pixel is likelier than not from 0 on.
THRESHOLD = 0.5


def shrink(logits_Chw: Tensor, side: int = SIDE) -> Tensor:
    """Return mask logits on the grid, (C, side, side), bilinear as released."""
    size = (side, side)
    grid_C1ss = F.interpolate(logits_Chw[:, None], size=size, mode="bilinear", align_corners=False)
    return grid_C1ss[:, 0]


def drawn_bits(logits_Css: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Return the mask counted as drawn, y = 1[Z_old > threshold], bool (C, s, s)."""
    return logits_Css.detach() > threshold


def log_likelihood(logits_Css: Tensor, bits_Css: Tensor) -> Tensor:
    """Return the log-likelihood of a mask under mask logits, (C,), at most 0.

        l = mean over the grid of  y log sigmoid(Z) + (1 - y) log(1 - sigmoid(Z))

    The mean, because the sum would drown the log-prob of the one token it is added to.
    """
    bits_Css = bits_Css.to(logits_Css.dtype)
    loss_Css = F.binary_cross_entropy_with_logits(logits_Css, bits_Css, reduction="none")
    return -loss_Css.mean(dim=(1, 2))


def calibrate(logprob_N: Tensor, token_C: Tensor, loglik_C: Tensor, weight: float = 1.0) -> Tensor:
    """Return log p([SEG]) + weight * l at the tokens `token_C`, all others unchanged; (N,).

    The release is on policy and adds this to the current log-prob alone. Several masks of one token
    add up. With weight 0 the result is `logprob_N` itself.

    Args:
        token_C: index into N of each mask's token.
        loglik_C: `log_likelihood` of each mask.
    """
    if weight == 0 or not len(token_C):
        return logprob_N
    return logprob_N.index_add(0, token_C, (weight * loglik_C).to(logprob_N.dtype))


def calibrate_change(
    logprob_N: Tensor,
    token_C: Tensor,
    loglik_C: Tensor,
    old_C: Tensor,
    weight: float = 1.0,
) -> Tensor:
    """Return calibrated log-probs to be compared with *textual* old ones, (N,).

        ratio = exp(log p + w l - log p_old - w l_old) = exp(calibrate_change(..) - log p_old)

    This form, right off policy as well, is chosen by this project. On policy l = l_old: the value
    is the textual log-prob, the ratio is 1, and the gradient is that of `calibrate`.

    Args:
        old_C: l_old of the same bits, under the weights of the drawing; a constant.
    """
    return calibrate(logprob_N, token_C, loglik_C - old_C.detach(), weight)
