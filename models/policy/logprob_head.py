"""The language model's head: hidden states to log-probs and entropies, chunk by chunk.

With a vocabulary of 150,000 words the logits of a row would take gigabytes. They are made chunk by
chunk, and made again in the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.pulse import tick

# Bytes of the fp32 logits of one chunk; two chunks are alive at the peak. The gradient of a
# bfloat16 head is rounded once for each chunk.
CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}
MOST_TOKENS = 512


def chunk_of(vocabulary: int, device: str) -> int:
    """Return the number of tokens in a chunk of `CHUNK_BYTES`, `MOST_TOKENS` at most."""
    tokens = CHUNK_BYTES[device] // (4 * vocabulary)
    return max(1, min(MOST_TOKENS, tokens))


class LogprobHead(nn.Linear):
    """A linear head with log-probs for output.

    All chunks are one module call, because under ZeRO-3 every rank must call every module equally
    often. An existing `lm_head` becomes a `LogprobHead` by a change of its class.
    """

    def forward(
        self,
        hidden: Tensor,
        target_N: Tensor | None = None,
        banned_V: Tensor | None = None,
        temperature: float = 1.0,
        chunk: int = 0,
    ) -> Any:
        """Return (logprob_N, entropy_N) of the targets, or logits without targets.

        Args:
            hidden: hidden states (N, D).
            target_N: token ids.
            banned_V: bool; these ids get probability 0.
            temperature: divides the logits.
            chunk: tokens in a chunk of logits; 0 derives it from the vocabulary.
        """
        if target_N is None:
            return F.linear(hidden, self.weight)
        chunk = chunk or chunk_of(self.out_features, hidden.device.type)
        return _LogprobEntropy.apply(hidden, self.weight, target_N, banned_V, temperature, chunk)


class _LogprobEntropy(torch.autograd.Function):
    """Log-probs of the targets and entropies; the backward pass makes the logits again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        target_N: Tensor,
        banned_V: Tensor,
        temperature: float,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        logprobs = []
        entropies = []
        norms = []
        for start in range(0, len(target_N), chunk):
            tick()
            span = slice(start, start + chunk)
            logits_NV = _logits(hidden_ND[span], weight_VD, banned_V, temperature)
            norm_N = logits_NV.logsumexp(-1)
            norms.append(norm_N)

            # In place: these blocks are what memory goes to.
            logprobs_NV = logits_NV.sub_(norm_N[:, None])
            logprob_N1 = logprobs_NV.gather(-1, target_N[span, None])
            logprobs.append(logprob_N1[:, 0])
            probs_NV = logprobs_NV.exp_()
            terms_NV = torch.special.entr(probs_NV, out=probs_NV)
            entropies.append(terms_NV.sum(-1))

        entropy_N = torch.cat(entropies)
        ctx.save_for_backward(hidden_ND, weight_VD, target_N, banned_V, torch.cat(norms), entropy_N)
        ctx.temperature = temperature
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(
        ctx: Any,
        d_logprob_N: Tensor | None,
        d_entropy_N: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, target_N, banned_V, norm_N, entropy_N = ctx.saved_tensors
        if d_logprob_N is None:
            d_logprob_N = torch.zeros_like(norm_N)

        d_hidden_ND = torch.zeros_like(hidden_ND)
        head_is_trained = ctx.needs_input_grad[1]
        d_weight_VD = torch.zeros_like(weight_VD) if head_is_trained else None

        for start in range(0, len(target_N), ctx.chunk):
            tick()
            span = slice(start, start + ctx.chunk)
            logits_NV = _logits(hidden_ND[span], weight_VD, banned_V, ctx.temperature)
            probs_NV = logits_NV.sub_(norm_N[span, None]).exp_()
            d_NV = _d_logits(
                probs_NV,
                entropy_N[span],
                None if d_entropy_N is None else d_entropy_N[span],
                d_logprob_N[span],
                target_N[span],
            )
            d_NV = d_NV.div_(ctx.temperature).to(weight_VD.dtype)
            d_hidden_ND[span] = d_NV @ weight_VD
            if d_weight_VD is not None:
                d_weight_VD.addmm_(d_NV.t(), hidden_ND[span])
        return d_hidden_ND, d_weight_VD, None, None, None, None


def _d_logits(
    probs_NV: Tensor,
    entropy_N: Tensor,
    d_entropy_N: Tensor | None,
    d_logprob_N: Tensor,
    target_N: Tensor,
) -> Tensor:
    """Return the gradient at the logits over temperature; overwrites `probs_NV`."""
    if d_entropy_N is None:
        d_NV = probs_NV.mul_(-d_logprob_N[:, None])
    else:
        # dH/dx = -p (log p + H), and p log p = -entr(p), which is 0 at p = 0.
        d_NV = torch.special.entr(probs_NV).mul_(d_entropy_N[:, None])
        factor_N = d_entropy_N * entropy_N + d_logprob_N
        d_NV.addcmul_(probs_NV, factor_N[:, None], value=-1)
    return d_NV.scatter_add_(-1, target_N[:, None], d_logprob_N[:, None])


def _logits(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    banned_V: Tensor,
    temperature: float,
) -> Tensor:
    """Return fp32 logits over temperature, (N, V); those of banned ids are -inf."""
    logits_NV = hidden_ND @ weight_VD.t()
    if logits_NV.dtype in (torch.bfloat16, torch.float16):
        logits_NV = logits_NV.float()
    return logits_NV.div_(temperature).masked_fill_(banned_V, -torch.inf)
