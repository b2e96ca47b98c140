"""Exact log-probs of a real vocabulary on a CPU.

PyTorch's fp32 `log_softmax` on a CPU adds up each sixteenth of a row one by one. Where one word has
nearly all the probability, the others of its sixteenth are lost in rounding: with 152,064 words and
p = 0.997 every log-prob is off by 1.6e-4, above `train.max_logprob_gap`. vLLM 0.32 scores with it;
the learner's log-sum-exp is right to 6e-7.
"""

from __future__ import annotations

from typing import Any

from models.engine.settings import SMALL_VOCABULARY


def score_exactly() -> None:
    """Make vLLM's sampler normalise the log-probs again, with a sum that loses nothing.

    What it samples stays. A small vocabulary is exact as it is, and keeps its bits.
    """
    from vllm.v1.sample.sampler import Sampler

    gather = Sampler.gather_logprobs
    if getattr(gather, "exact", False):
        return

    def gather_exact(logprobs: Any, *args: Any, **kwargs: Any) -> Any:
        if logprobs.device.type == "cpu" and logprobs.shape[-1] > SMALL_VOCABULARY:
            logprobs = logprobs - logprobs.logsumexp(-1, keepdim=True)
        return gather(logprobs, *args, **kwargs)

    gather_exact.exact = True  # type: ignore[attr-defined]
    Sampler.gather_logprobs = staticmethod(gather_exact)
