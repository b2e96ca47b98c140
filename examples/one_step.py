"""The whole GRPO loop on one page, without Ray, vLLM or a GPU: `python examples/one_step.py`.

The system (ReVSeg), its reward, the advantages, the rows and the loss are the real ones: read
`one_step`, at the end. The policy is a toy, a bigram model: it predicts a token from the one
before. Its answers are the tokens 0 to 7. In round 1 token i names frame i, in round 2 the target's
box on frame i. Each round of each sample has a prompt token of its own. `ray_jobs/train.py` is the
same loop with engines and learners.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from core import batch, grpo
from core.losses import LOSSES, ClipBounds
from core.masks import encode
from core.types import Group, Sample, System, Target, Turn, Video, View
from systems import make

FRAMES = 8
GROUP = 8
SIDE = 112
OPTIONS = {
    "num_frames": FRAMES,
    "frame_height": 56,
    "frame_width": 56,
    "keyframe_height": SIDE,
    "keyframe_width": SIDE,
    "prompt": "short",
}


class Bigram(torch.nn.Module):
    """Log-probs of the answer tokens after each token; one row for each answer and prompt token."""

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(FRAMES + 2 * num_samples, FRAMES))

    def forward(self, previous_N: Tensor) -> Tensor:
        return self.table[previous_N].log_softmax(-1)


class Dialogue:
    """One dialogue with the policy (`core.types.Ask`); the real one asks a vLLM engine."""

    version = 0

    def __init__(self, policy: Bigram, sample: int, random: torch.Generator) -> None:
        self.policy = policy
        self.random = random
        self.prompt = FRAMES + 2 * sample

    async def __call__(
        self, content: Sequence[str | View], *, max_tokens: int, trainable: bool = True
    ) -> Turn:
        prompt = self.prompt
        self.prompt += 1
        with torch.no_grad():
            logprob_V = self.policy(torch.tensor(prompt))
        token = int(torch.multinomial(logprob_V.exp(), 1, generator=self.random))
        is_first_round = (prompt - FRAMES) % 2 == 0
        text = name_frame(token) if is_first_round else name_box(token)
        logprob = float(logprob_V[token])
        return Turn(
            prompt_ids=(prompt,),
            completion_ids=(token,),
            logprobs=(logprob,),
            text=text,
            media=(),
            complete=True,
            version=0,
        )

    async def auxiliary(
        self, content: Sequence[str | View], *, max_tokens: int, temperature: float, top_p: float
    ) -> Turn:
        raise NotImplementedError("ReVSeg asks no auxiliary questions")

    def count(self, text: str) -> int:
        return 1


def name_frame(frame: int) -> str:
    return (
        "<think>I look for it.</think>"
        f'<answer>[{{"frame_idx": {frame}, "object description": "a square"}}]</answer>'
    )


def name_box(frame: int) -> str:
    x0 = 8 * frame
    return f'<answer>[{{"bbox_2d": [{x0}, 0, {x0 + 40}, 40], "label": "a square"}}]</answer>'


def make_sample(number: int) -> Sample:
    """A square that moves right and is largest on frame 5 or 2."""
    largest = (5, 2)[number]
    masks_F = []
    for frame in range(FRAMES):
        side = 40 if frame == largest else 24
        mask_HW = np.zeros((SIDE, SIDE), dtype=bool)
        mask_HW[:side, 8 * frame : 8 * frame + side] = True
        masks_F.append(encode(mask_HW))
    video = Video(f"v{number}", "nowhere", tuple(f"{i:05d}" for i in range(FRAMES)), SIDE, SIDE)
    return Sample(f"v{number}/0", video, "the square", (Target("square", masks_F),))


async def play(
    system: System, sample: Sample, number: int, policy: Bigram, random: torch.Generator
) -> Group:
    dialogues = [Dialogue(policy, number, random) for _ in range(GROUP)]
    playing = [system.play(sample.bare, dialogue) for dialogue in dialogues]
    return Group(sample.uid, tuple(await asyncio.gather(*playing)))


def one_step(
    system: System,
    samples: Sequence[Sample],
    policy: Bigram,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
) -> float:
    """Make one GRPO step; return the mean reward before it."""
    # 1. Play: G episodes of each sample.
    groups = []
    for number, sample in enumerate(samples):
        groups.append(asyncio.run(play(system, sample, number, policy, random)))

    # 2. Mask: the reward of ReVSeg reads boxes, so no masks are needed.

    # 3. Score: a reward for each episode of each group.
    scored = []
    for sample, group in zip(samples, groups, strict=True):
        rewards_G = system.score(sample, group.episodes)
        scored.append(replace(group, rewards=tuple(rewards_G)))

    # 4. Judge: advantages relative to the group.
    judged = [grpo.judge(group) for group in scored]

    # 5. Learn: all groups in one row, one optimizer step on its trained tokens.
    counts: list[int] = []
    for group in judged:
        counts += grpo.trained_tokens(group)
    weights = grpo.token_weights(counts, "token_mean", max_tokens=2)
    forest: list[batch.Tree] = []
    for index, group in enumerate(judged):
        credit = grpo.credit(group, per_turn=False, std=True, eps=1e-6)
        first = index * GROUP
        forest += batch.trees(group, index, credit, weights[first : first + GROUP], first)
    row = batch.build_row(forest, batch.ImageLayout(token_id=-1, cell=28))
    logprob_NV = policy(torch.tensor(row.ids_T[row.source_N]))
    logprob_N = logprob_NV.gather(1, torch.tensor(row.target_N)[:, None])[:, 0]
    surrogate = LOSSES["grpo"](
        logprob_N,
        torch.tensor(row.engine_logprob_N),
        torch.tensor(row.advantage_N),
        torch.tensor(row.episode_N),
        ClipBounds(low=0.2, high=0.2),
    )
    loss = (torch.tensor(row.weight_N) * surrogate.loss_N).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

    # 6. Publish: the toy engine and the learner share their weights.
    totals: list[float] = []
    for group in judged:
        totals += [reward.total for reward in group.rewards if reward]
    return float(np.mean(totals))


def main(steps: int = 60) -> list[float]:
    """Train; print and return the mean reward of each step. The best possible reward is 3."""
    system = make("revseg", OPTIONS)
    samples = [make_sample(0), make_sample(1)]
    policy = Bigram(len(samples))
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.2)
    random = torch.Generator().manual_seed(0)
    rewards = []
    for step in range(1, steps + 1):
        rewards.append(one_step(system, samples, policy, optimizer, random))
        if step == 1 or step % 10 == 0:
            print(f"step {step:2d}: mean reward {rewards[-1]:.2f}")
    return rewards


if __name__ == "__main__":
    main()
