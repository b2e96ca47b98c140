"""Supervised fine-tuning on a system's own demonstrations: the cold start before reinforcement learning.

    python -m ray_jobs.warm_start revseg_tiny policy.path=FOLDER warm_start.output=FOLDER warm_start.steps=300

The system writes the ideal dialogue of each sample from its annotations (`System.demonstrate`); the same learner
actors that do GRPO imitate it, with cross-entropy on the assistant's tokens alone. Writes a Hugging Face folder.

Where `mask.token` is set the policy learns to draw as well: the token is added to its vocabulary and a mask head made
where it has none, and both are supervised with the true masks of the frames that the demonstrations draw on.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from actors.drawing import to_learn
from actors.learner_pool import LearnerPool
from actors.policies import token_id
from configs.load import load as load_config
from configs.load import resolve
from configs.schema import Config
from core.types import End, Episode, Group, MediaTable, Sample, System, Turn, View
from data.frames.frames import show
from models.dialogue import Dialogue
from models.policy.new_token import add_token
from ray_jobs.driver.session import Session, run_job
from ray_jobs.train import samples_of_step

IMITATION_METRICS = (
    "mask_loss",
    "entropy",
    "trained_tokens",
    "rows",
    "skipped_steps",
    "lr",
)  # others: of two policies


@runtime_checkable
class Draws(Protocol):
    """A system whose policy draws: it says which masks a dialogue asks for."""

    def episode(self, sample: Sample, turns: Sequence[Turn], seg_id: int | None) -> Episode: ...


@dataclass(frozen=True)
class Demonstrator:
    """Turns samples into demonstrations in token ids."""

    system: System
    dialogue: Dialogue
    seed: int
    seg_id: int | None = None  # of the token at which the policy draws

    def group(self, sample: Sample, step: int) -> tuple[Group, MediaTable]:
        """A group of one ideal episode, and the pixels it shows."""
        rng = np.random.default_rng([self.seed, step, *sample.uid.encode()])
        turns: list[Turn] = []
        pixels: MediaTable = {}
        for content, answer in self.system.demonstrate(sample, rng):
            shown = show(sample.video, [piece for piece in content if isinstance(piece, View)])
            pixels |= {media.digest: image for media, image in shown}
            prompt = self.dialogue.user(content, first=not turns, expanded=True)
            ids = self.dialogue.completion(answer)
            media = tuple(media for media, _ in shown)
            turns.append(
                Turn(tuple(prompt), tuple(ids), (), answer, media, complete=True, version=0)
            )
        return Group(sample.uid, (self._episode(sample, turns),)), pixels

    def _episode(self, sample: Sample, turns: Sequence[Turn]) -> Episode:
        if self.seg_id is not None and isinstance(self.system, Draws):
            return self.system.episode(sample, turns, self.seg_id)
        return Episode(sample.uid, tuple(turns), End.DONE)


def demonstrable(system: System, samples: Sequence[Sample]) -> list[Sample]:
    """Samples that the system can demonstrate: those with a target in a frame it would show."""
    kept = []
    for sample in samples:
        try:
            system.demonstrate(sample, np.random.default_rng(0))
        except ValueError:
            continue  # nothing to point at: the reason that `demonstrate` documents
        kept.append(sample)
    if not kept:
        raise ValueError(
            f"none of the {len(samples)} training samples has a target that can be demonstrated"
        )
    return kept


def warm_start(argv: Sequence[str]) -> Path:
    """Runs `warm_start.steps` updates; returns the folder of the policy it wrote."""
    output = Path(load_config(argv).warm_start.output)
    if output.exists():  # told before anything starts
        raise ValueError(f"warm_start.output={output}: exists already; choose another folder")
    with Session.open(argv, part="warm_start") as session:
        settings = session.cfg.warm_start
        session.run.truncate_after(0)  # of an earlier warm start under this name
        cfg = (
            to_draw(session.cfg, session.run.path / "with_token") if session.draws else session.cfg
        )
        tokenizer = AutoTokenizer.from_pretrained(resolve(cfg.policy.path))
        dialogue = Dialogue(tokenizer, cell_of(resolve(cfg.policy.path)))
        seg_id = token_id(tokenizer, cfg.mask.token) if session.draws else None
        demonstrator = Demonstrator(session.system, dialogue, cfg.seed, seg_id)
        samples = demonstrable(session.system, session.split(cfg.data.train_split))
        with session.progress.phase("start: learners"):
            learner = LearnerPool(cfg, session.placement, total_updates=settings.steps)
        session.progress.total_steps = settings.steps
        for step in range(1, settings.steps + 1):
            began = time.monotonic()
            picked = samples_of_step(samples, step, settings.batch_size, cfg.seed)
            groups, media = zip(
                *(demonstrator.group(sample, step) for sample in picked), strict=True
            )
            masks = (
                to_learn(picked, [g.episodes for g in groups], None, cfg.mask)
                if session.draws
                else None
            )
            update = learner.imitate(groups, media, masks)
            kept = {
                name: value for name, value in update.metrics.items() if name in IMITATION_METRICS
            }
            metrics = {"loss": update.loss, "grad_norm": update.grad_norm} | kept
            seconds = {"learn": time.monotonic() - began}
            session.run.write_step(step, metrics, seconds)
            session.mlflow.metrics(step, metrics)
            session.progress.step(step, metrics, seconds)
        write_policy(learner, output, settings.bf16)
        learner.close()
        session.progress.note(f"policy: {output}")
        return output


def to_draw(cfg: Config, folder: Path) -> Config:
    """The settings under which a policy learns to draw. If its vocabulary lacks the token, `folder` becomes a copy of
    the policy that has it."""
    given = cfg.warm_start
    mask = cfg.mask
    mask = replace(
        mask,
        fresh=True,
        loss=given.mask_loss,
        bce=given.mask_bce,
        dice=given.mask_dice,
        points=given.mask_points,
    )
    source = resolve(cfg.policy.path)
    if len(Dialogue(AutoTokenizer.from_pretrained(source)).text(mask.token)) == 1:
        return replace(cfg, mask=mask)
    shutil.rmtree(folder, ignore_errors=True)
    add_token(source, folder, mask.token)
    return replace(cfg, mask=mask, policy=replace(cfg.policy, path=str(folder.resolve())))


def cell_of(folder: Path) -> int:
    """Pixels on a side of an image token of the model in `folder`."""
    vision = AutoConfig.from_pretrained(folder).vision_config
    return int(vision.patch_size * vision.spatial_merge_size)


def write_policy(learner: LearnerPool, output: Path, bf16: bool) -> None:
    """The learner's policy as a Hugging Face folder, whole or not at all; in bfloat16 if asked for."""
    part = output.with_name(f".{output.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    learner.save(part)
    output.parent.mkdir(parents=True, exist_ok=True)
    if bf16:
        AutoModelForImageTextToText.from_pretrained(
            part / "policy", dtype="bfloat16"
        ).save_pretrained(part / "policy")
    for file in (part / "policy").iterdir():
        if file.is_file():
            file.chmod(0o644)  # safetensors writes files that only their owner may read
    (part / "policy").rename(output)
    shutil.rmtree(part)


if __name__ == "__main__":
    run_job(warm_start)
