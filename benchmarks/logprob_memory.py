"""Peak memory of log-probs in chunks against full logits: `python -m benchmarks.logprob_memory`.

Forward and backward of the head alone, from hidden states to log-probs of N trained tokens, at the
vocabulary of Qwen-VL (151,936). "full" makes the (N, V) logits and their log-softmax. "chunks" is
the learner's head (`models.policy.logprob_head.LogprobHead`), and gives entropies as well. Each
runs in a process of its own. The peak counts from the hidden states and the head's weight on: on
the CPU the resident set, sampled every 2 ms, on a GPU `torch.cuda.max_memory_allocated`. Gradients
of the hidden states are counted, the same size for both; so are the head's, unless --frozen-head.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measuring import argument_parser
from models.policy.logprob_head import LogprobHead

VARIANTS = ("full", "chunks")
PAGE = os.sysconf("SC_PAGE_SIZE")


def full(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, banned_V: Tensor) -> Tensor:
    """The plain way at its leanest: only the trained positions, masked in place, no entropy."""
    logits_NV = (hidden_ND @ weight_VD.t()).float().masked_fill_(banned_V, -torch.inf)
    return logits_NV.log_softmax(-1).gather(-1, target_N[:, None])[:, 0]


def chunks(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, banned_V: Tensor) -> Tensor:
    head = LogprobHead(*reversed(weight_VD.shape), bias=False, device="meta")
    head.weight = weight_VD
    return head(hidden_ND, target_N, banned_V)[0]


class Peak:
    """Bytes above the start while the block runs."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.bytes = 0
        self.done = threading.Event()

    def __enter__(self) -> Peak:
        if self.device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            self.start = resident()
            self.watch = threading.Thread(target=self._sample, daemon=True)
            self.watch.start()
        return self

    def _sample(self) -> None:
        while not self.done.is_set():
            self.bytes = max(self.bytes, resident() - self.start)
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - self.start
        else:
            self.done.set()
            self.watch.join()


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def measure(variant: str, options: argparse.Namespace) -> None:
    """Print peak bytes, seconds, and a check sum of this variant, in a process of its own."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = options.device
    place = {"device": device, "dtype": getattr(torch, options.dtype)}
    hidden_ND = torch.randn(options.tokens, options.hidden, **place).requires_grad_()
    random_VD = torch.randn(options.vocabulary, options.hidden, **place)
    weight_VD = torch.nn.Parameter(random_VD.mul_(options.hidden**-0.5))
    weight_VD.requires_grad_(not options.frozen_head)
    target_N = torch.randint(100, options.vocabulary, (options.tokens,), device=device)
    banned_V = torch.arange(options.vocabulary, device=device) < 100

    # A first small run loads libraries and starts threads.
    work = {"full": full, "chunks": chunks}[variant]
    work(hidden_ND[:8], weight_VD, target_N[:8], banned_V).sum().backward()
    hidden_ND.grad = None
    weight_VD.grad = None

    began = time.perf_counter()
    with Peak(device) as peak:
        logprob_N = work(hidden_ND, weight_VD, target_N, banned_V)
        logprob_N.square().sum().backward()
    seconds = time.perf_counter() - began
    assert hidden_ND.grad is not None
    mean = float(logprob_N.mean())
    norm = float(hidden_ND.grad.float().norm())
    print(peak.bytes, seconds, mean, norm)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frozen-head", action="store_true", help="no gradient of the head (LoRA)")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        measure(options.variant, options)
        return

    found = {}
    for variant in VARIANTS:
        command = [sys.executable, "-m", "benchmarks.logprob_memory"]
        command += [*sys.argv[1:], "--variant", variant]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        last_line = done.stdout.strip().splitlines()[-1]
        found[variant] = [float(word) for word in last_line.split()]
    # The check sums: mean log-prob and norm of the gradient.
    chunks_sums = found["chunks"][2:]
    full_sums = found["full"][2:]
    torch.testing.assert_close(chunks_sums, full_sums, rtol=1e-3, atol=1e-3)

    print(
        f"{options.tokens} tokens, vocabulary {options.vocabulary}, hidden {options.hidden}, "
        f"{options.dtype}, {options.device}"
    )
    for variant in VARIANTS:
        peak, seconds = found[variant][:2]
        print(f"{variant:>7}: peak {peak / 2**20:8.0f} MiB above start, {seconds:6.2f} s")
    print(f"chunks / full: {found['chunks'][0] / found['full'][0]:.1%} of the memory")


if __name__ == "__main__":
    main()
