"""Peak memory of log-probs in chunks against full logits: `python benchmarks/logprob_memory.py [--tokens 2048]`.

Forward and backward of the head alone, from hidden states to log-probs of N trained tokens, at the vocabulary of
Qwen-VL (151,936). "full" makes the (N, V) logits and their log-softmax; "chunks" is the learner's head
(`models.policy.logprob_head.LogprobHead`), which gives entropies as well. Each runs in a process of its own. Peak: above what lies
there before (hidden states and head weight); on the CPU the resident set, sampled every 2 ms, on a GPU
`torch.cuda.max_memory_allocated`. Gradients of the hidden states are the same size for both and are counted; so is
the head's, unless --frozen-head.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

VARIANTS = ("full", "chunks")
PAGE = os.sysconf("SC_PAGE_SIZE")


def full(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, banned_V: Tensor) -> Tensor:
    """The straight way, already at its leanest: only the trained positions, masked in place, and no entropy."""
    logits_NV = (hidden_ND @ weight_VD.t()).float().masked_fill_(banned_V, -torch.inf)
    return logits_NV.log_softmax(-1).gather(-1, target_N[:, None])[:, 0]


def chunks(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, banned_V: Tensor) -> Tensor:
    from models.policy.logprob_head import LogprobHead

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
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def measure(variant: str, options: argparse.Namespace) -> None:
    """In the variant's own process: prints peak bytes, seconds, and a check sum that both variants share."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    dtype = getattr(torch, options.dtype)
    device = options.device
    shape = {"device": device, "dtype": dtype}
    hidden_ND = torch.randn(options.tokens, options.hidden, **shape).requires_grad_()
    weight_VD = torch.nn.Parameter(
        torch.randn(options.vocabulary, options.hidden, **shape).mul_(options.hidden**-0.5)
    )
    weight_VD.requires_grad_(not options.frozen_head)
    target_N = torch.randint(100, options.vocabulary, (options.tokens,), device=device)
    banned_V = torch.arange(options.vocabulary, device=device) < 100
    work = {"full": full, "chunks": chunks}[variant]
    work(
        hidden_ND[:8], weight_VD, target_N[:8], banned_V
    ).sum().backward()  # libraries load, threads start
    hidden_ND.grad = weight_VD.grad = None
    begin = time.perf_counter()
    with Peak(device) as peak:
        logprob_N = work(hidden_ND, weight_VD, target_N, banned_V)
        logprob_N.square().sum().backward()
    assert hidden_ND.grad is not None
    check = float(logprob_N.mean()), float(hidden_ND.grad.float().norm())
    print(peak.bytes, time.perf_counter() - begin, *check)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--frozen-head", action="store_true", help="no gradient of the head, as with LoRA"
    )
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        measure(options.variant, options)
        return
    found = {}
    for variant in VARIANTS:
        call = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
        *_, line = (
            subprocess.run(call, check=True, capture_output=True, text=True)
            .stdout.strip()
            .splitlines()
        )
        found[variant] = [float(x) for x in line.split()]
    torch.testing.assert_close(found["chunks"][2:], found["full"][2:], rtol=1e-3, atol=1e-3)
    print(
        f"{options.tokens} tokens, vocabulary {options.vocabulary}, hidden {options.hidden}, {options.dtype}, "
        f"{options.device}"
    )
    for variant in VARIANTS:
        peak, seconds = found[variant][:2]
        print(f"{variant:>7}: peak {peak / 2**20:8.0f} MiB above start, {seconds:6.2f} s")
    print(f"chunks / full: {found['chunks'][0] / found['full'][0]:.1%} of the memory")


if __name__ == "__main__":
    main()
