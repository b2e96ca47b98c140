"""Samples whose dialogue has no room in `rollout.max_model_len`: found ahead, and named.

A training run sets them aside, and an evaluation reports them as failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from actors.setup import make_system, system_message
from configs.load import resolve
from core.types import Hints, Sample, System
from models.dialogue import Dialogue, load_dialogue
from models.prompt_tokens import count_prompt, opening_questions
from ray_jobs.driver.run import Run

# Names in a line.
NAMED = 5


def too_long(
    dialogue: Dialogue,
    system: System,
    samples: Sequence[Sample],
    max_model_len: int,
) -> dict[str, str]:
    """Return the samples whose first questions leave no room for an answer, each with the reason.

    Later questions depend on the answers. A dialogue that grows too long is found when it is
    played.
    """
    found = {}
    for sample in samples:
        if system.uses_hints and sample.hints is None:
            # Training gives hints, and no other frame makes another number of tokens.
            sample = replace(sample, hints=Hints(0))
        tokens = 0
        for question in opening_questions(system, sample):
            count = count_prompt(dialogue, question.content, first=question.first)
            tokens = max(tokens, count.prompt)
        if tokens >= max_model_len:
            found[sample.uid] = (
                f"its prompt has {tokens} tokens, and an answer needs one more: "
                f"rollout.max_model_len={max_model_len}"
            )
    return found


def too_long_for(run: Run, samples: Sequence[Sample]) -> dict[str, str]:
    """Return the training samples of a run that cannot fit, as `too_long`, and name them."""
    cfg = run.cfg
    with run.progress.phase("count: prompts"):
        dialogue = load_dialogue(resolve(cfg.policy.path), system_message(cfg))
        # A system of its own, since one may remember what it was asked.
        found = too_long(dialogue, make_system(cfg), samples, cfg.rollout.max_model_len)
    if found:
        run.progress.note(aside_line(found, f"of {len(samples)} training samples"))
    return found


def aside_line(reasons: Mapping[str, str], of: str) -> str:
    """Return the line about samples that are set aside: how many, some names, one reason."""
    names = list(reasons)
    more = ", ..." if len(names) > NAMED else ""
    return f"set aside: {len(names)} {of}: {', '.join(names[:NAMED])}{more}: {reasons[names[0]]}"
