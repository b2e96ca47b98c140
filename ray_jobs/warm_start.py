"""Fine-tune a policy on a system's demonstrations: the cold start before reinforcement learning.

    python -m ray_jobs.warm_start revseg_tiny policy.path=FOLDER warm_start.output=FOLDER

The system writes the ideal dialogue of each sample from its annotations (`System.demonstrate`). The
learner actors of GRPO imitate it with cross-entropy on the assistant's tokens. The result is a
Hugging Face folder.

With `mask.token` the policy also learns to draw: the token joins its vocabulary, it gets a mask
head if it has none, and both are supervised with the true masks of the demonstrated frames.

A stopped or died warm start goes on from its newest checkpoint, in `runs/<name>/warm_start/`.
"""

from __future__ import annotations

from ray_jobs.driver import supervisor

if __name__ == "__main__":
    # The parent goes no further: all imports below are the child's.
    supervisor.supervise()

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from transformers import AutoModelForImageTextToText

from actors.drawing import DrawBatch, mask_targets
from actors.learner_pool import LearnerLost, LearnerPool
from actors.policies import token_id
from actors.setup import system_message
from actors.splits import training_split
from configs.load import load as load_config
from configs.load import resolve
from configs.schema import RUN, Config
from core.settings import identity
from core.types import End, Episode, Group, Sample, System, Turn, View
from data.frames.reading import show_views
from data.mixing import Mix, Position, check_left
from models.dialogue import Dialogue, load_dialogue
from models.policy.new_token import add_token
from models.policy.older_versions import add_old_names
from models.prompt_tokens import count_prompt
from ray_jobs.driver.entry import run_job
from ray_jobs.driver.fit import aside_line
from ray_jobs.driver.run import Run, checked_config
from ray_jobs.driver.sampling import Draws, mix_rows, training_mix
from ray_jobs.driver.saving import Saving
from ray_jobs.record import checkpoint
from ray_jobs.record.journal import fingerprint_of
from ray_jobs.record.run_folder import RunFolder

# The learner's metrics of imitation; its others compare two policies.
METRICS = ("mask_loss", "entropy", "trained_tokens", "rows", "skipped_steps", "lr")


@runtime_checkable
class DrawingSystem(Protocol):
    """A system with a drawing policy: it reads the requested masks from a dialogue."""

    def episode(self, sample: Sample, turns: Sequence[Turn], seg_id: int | None) -> Episode: ...


@dataclass(frozen=True)
class Demonstrator:
    """Turns samples into demonstrations in token ids.

    Attributes:
        system: The author of the dialogues.
        dialogue: The chat format and tokenizer of the policy.
        seed: The seed of the run.
        seg_id: The id of the token to draw at; None if the policy points.
    """

    system: System
    dialogue: Dialogue
    seed: int
    seg_id: int | None = None

    def group(self, sample: Sample, step: int) -> Group:
        """Return a group of one ideal episode."""
        # Seeded by the sample, so a demonstration does not depend on the others in its batch.
        seeds = [self.seed, step, *sample.uid.encode()]
        rng = np.random.default_rng(seeds)
        turns: list[Turn] = []
        for content, answer in self.system.demonstrate(sample, rng):
            views = [piece for piece in content if isinstance(piece, View)]
            media = [shown for shown, _ in show_views(sample.video, views)]
            prompt = self.dialogue.user(content, first=not turns, expanded=True)
            turn = Turn(
                prompt_ids=tuple(prompt),
                completion_ids=tuple(self.dialogue.completion(answer)),
                logprobs=(),
                text=answer,
                media=tuple(media),
                complete=True,
                version=0,
            )
            turns.append(turn)
        return Group(sample.uid, (self._episode(sample, turns),))

    def tokens(self, sample: Sample) -> int | None:
        """Return the number of tokens of one demonstration of a sample; another differs little.

        None for a sample without a target in a shown frame.
        """
        try:
            demonstration = self.system.demonstrate(sample, np.random.default_rng(0))
        except ValueError:
            # `demonstrate` documents this as: the sample has nothing to point at.
            return None
        tokens = 0
        for number, (content, answer) in enumerate(demonstration):
            count = count_prompt(self.dialogue, content, first=number == 0)
            tokens += count.prompt + len(self.dialogue.completion(answer))
        return tokens

    def _episode(self, sample: Sample, turns: Sequence[Turn]) -> Episode:
        if self.seg_id is not None and isinstance(self.system, DrawingSystem):
            return self.system.episode(sample, turns, self.seg_id)
        return Episode(sample.uid, tuple(turns), End.DONE)


def demonstrable(
    demonstrator: Demonstrator, samples: Sequence[Sample], max_model_len: int
) -> tuple[list[Sample], dict[str, str]]:
    """Return the demonstrable samples, and those among them that cannot fit, with the reason.

    A demonstrable sample has a target in a shown frame.

    Raises:
        ValueError: No sample can be demonstrated.
    """
    kept = []
    too_long = {}
    for sample in samples:
        tokens = demonstrator.tokens(sample)
        if tokens is None:
            continue
        kept.append(sample)
        if tokens > max_model_len:
            too_long[sample.uid] = (
                f"its demonstration has {tokens} tokens: rollout.max_model_len={max_model_len}"
            )
    if not kept:
        raise ValueError(
            f"none of the {len(samples)} training samples has a target that can be demonstrated"
        )
    return kept, too_long


def demonstrations(run: Run, demonstrator: Demonstrator) -> tuple[Mix, dict[str, str]]:
    """Return the samples to demonstrate, and those that cannot fit, each with the reason.

    Raises:
        ValueError: A set without any sample that can be demonstrated and fits.
    """
    cfg = run.cfg
    samples = run.split(training_split(cfg))
    with run.progress.phase("count: demonstrations"):
        kept, aside = demonstrable(demonstrator, samples, cfg.rollout.max_model_len)
    mix = training_mix(cfg, kept)
    check_left(mix, aside)
    if aside:
        run.progress.note(aside_line(aside, f"of {len(kept)} demonstrations"))
    run.record.write_aside(aside)
    if cfg.data.sets:
        draws = cfg.warm_start.steps * cfg.warm_start.batch_size
        run.progress.table("training data", mix_rows(mix, draws))
    return mix, aside


def warm_start(argv: Sequence[str]) -> Path:
    """Run `warm_start.steps` updates; return the folder of the new policy.

    Raises:
        ValueError: An impossible setting or file, or `warm_start.output` exists already.
    """
    # Checked first, because it takes no time.
    output = Path(load_config(argv).warm_start.output)
    if output.exists():
        raise ValueError(f"warm_start.output={output}: exists already; choose another folder")

    cfg = checked_config(argv)
    supervisor.tell(f"max_restarts {cfg.cluster.max_restarts}")
    supervisor.show_life(cfg.cluster.hang_s)
    fresh = cfg.train.resume == "never" and not supervisor.is_again()
    splits = [training_split(cfg)]
    with Run.open(
        cfg,
        splits=splits,
        job="warm_start",
        folder="warm_start",
        fresh=fresh,
        total_steps=cfg.warm_start.steps,
    ) as run:
        start, state = start_of(cfg, run.record)
        supervisor.tell("opened")
        if cfg.mask.token:
            cfg = with_drawing(cfg, run.record.path / "with_token")
        learner = imitate_all(run, cfg, start, state)
        write_policy(learner, output, cfg.warm_start.bf16)
        learner.close()
        # Another warm start under this name begins anew.
        shutil.rmtree(run.record.checkpoints)
        run.progress.note(f"policy: {output}")
        return output


@dataclass
class WarmState:
    """The part of a warm start in its checkpoints beside the learner's own state.

    Attributes:
        step: The last learned step.
        used: Number of demonstrations drawn from each set so far.
        aside: Demonstrations that cannot fit, each with the reason.
        identity: A digest of the settings that decide on the steps.
    """

    step: int = 0
    used: dict[str, int] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    identity: str = ""


def identity_of(cfg: Config) -> str:
    """Return a digest of the settings that a warm start must agree with to go on."""
    given = replace(cfg.warm_start, output="", checkpoint_every=0)
    return fingerprint_of([identity(cfg, RUN), asdict(given)])


def start_of(cfg: Config, record: RunFolder) -> tuple[Path | None, WarmState]:
    """Return the checkpoint to go on from, if there is one, and the state there.

    Raises:
        ValueError: The checkpoint is of a warm start with other settings.
    """
    own = identity_of(cfg)
    start = checkpoint.find(record.checkpoints, "auto")
    if start is None:
        return None, WarmState(identity=own)
    state = WarmState(**checkpoint.read_state(start))
    if state.identity != own:
        raise ValueError(
            f"{record.path} holds an unfinished warm start with other settings: give those again, "
            "choose another name=..., or train.resume=never, which sets the old folder aside"
        )
    return start, state


def imitate_all(run: Run, cfg: Config, start: Path | None, state: WarmState) -> LearnerPool:
    """Run all updates behind a state; return the learner."""
    demonstrator = make_demonstrator(cfg, run.system)
    mix, aside = demonstrations(run, demonstrator)
    position = Position(state.used, {**state.aside, **aside})
    draws = Draws(mix, cfg.warm_start.batch_size, state.step, position)
    with run.progress.phase("start: learners"):
        learner = LearnerPool(cfg, run.placement, total_updates=cfg.warm_start.steps)
    if start is not None:
        learner.load(start)
        run.progress.note(f"resumed from {start}")
    # Lines after the checkpoint, or of an earlier warm start under this name.
    run.record.truncate_after(state.step)
    imitate_steps(run, cfg, learner, demonstrator, draws, state)
    return learner


def imitate_steps(
    run: Run,
    cfg: Config,
    learner: LearnerPool,
    demonstrator: Demonstrator,
    draws: Draws,
    state: WarmState,
) -> None:
    """Imitate all batches behind a state, with checkpoints in between."""
    saving = Saving(run.record.checkpoints, run.progress.note)
    every = cfg.warm_start.checkpoint_every
    saved = state.step
    try:
        for step in range(state.step + 1, cfg.warm_start.steps + 1):
            while run.requests.wait_while_paused():
                save(run, learner, saving, draws, state)
            with run.requests.patient(cfg.train.stop_s):
                imitate_step(run, cfg, learner, demonstrator, draws.of_step(step), step)
                state.step = step
            supervisor.tell(f"step {step}")
            saving.settle()
            is_due = every > 0 and step % every == 0
            if run.requests.take_checkpoint() or is_due:
                save(run, learner, saving, draws, state)
                saved = step
        saving.finish(learner)
    except SystemExit:
        # A stop.
        if state.step > saved:
            save(run, learner, saving, draws, state)
        saving.finish(learner)
        raise
    except LearnerLost:
        saving.abandon()
        raise


def save(run: Run, learner: LearnerPool, saving: Saving, draws: Draws, state: WarmState) -> None:
    """Start a checkpoint; in the end only the newest one is kept."""
    position = draws.after(state.step)
    state.used = dict(position.used)
    state.aside = dict(position.aside)

    def keep_newest(folder: Path) -> None:
        checkpoint.prune(folder.parent, keep=1)

    with run.requests.patient(), run.progress.phase(f"checkpoint step_{state.step}"):
        saving.start(learner, state.step, asdict(state), keep_newest)


def imitate_step(
    run: Run,
    cfg: Config,
    learner: LearnerPool,
    demonstrator: Demonstrator,
    samples: Sequence[Sample],
    step: int,
) -> None:
    """Imitate one batch of demonstrations and record the step."""
    began = time.monotonic()
    groups = [demonstrator.group(sample, step) for sample in samples]
    masks: DrawBatch | None = None
    if cfg.mask.token:
        masks = mask_targets(samples, [group.episodes for group in groups], None, cfg.mask)
    # A half-learned step cannot be saved, so from here on it is finished.
    run.requests.be_patient()
    update = learner.imitate(groups, [sample.video for sample in samples], masks)

    metrics = {"loss": update.loss, "grad_norm": update.grad_norm}
    for name, value in update.metrics.items():
        if name in METRICS:
            metrics[name] = value
    seconds = {"learn": time.monotonic() - began}
    run.record.write_step(step, metrics, seconds)
    run.tracker.metrics(step, metrics)
    run.progress.step(step, metrics, seconds)


def make_demonstrator(cfg: Config, system: System) -> Demonstrator:
    """Return a demonstrator in the chat format of the policy."""
    folder = resolve(cfg.policy.path)
    dialogue = load_dialogue(folder, system_message(cfg))
    seg_id = None
    if cfg.mask.token:
        seg_id = token_id(dialogue, cfg.mask.token)
    return Demonstrator(system, dialogue, cfg.seed, seg_id)


def with_drawing(cfg: Config, folder: Path) -> Config:
    """Return the settings for learning to draw.

    If the policy's vocabulary lacks the token, `folder` becomes a copy of the policy with it.
    """
    given = cfg.warm_start
    mask = replace(
        cfg.mask,
        fresh=True,
        loss=given.mask_loss,
        bce=given.mask_bce,
        dice=given.mask_dice,
        points=given.mask_points,
    )
    source = resolve(cfg.policy.path)
    if len(load_dialogue(source).text(mask.token)) == 1:
        return replace(cfg, mask=mask)

    shutil.rmtree(folder, ignore_errors=True)
    add_token(source, folder, mask.token)
    policy = replace(cfg.policy, path=str(folder.resolve()))
    return replace(cfg, mask=mask, policy=policy)


def write_policy(learner: LearnerPool, output: Path, bf16: bool) -> None:
    """Write the policy as a Hugging Face folder, whole or not at all; in bfloat16 if asked for."""
    # Beside the target, on the same file system: the last step must be a rename.
    part = output.with_name(f".{output.name}.part")
    policy = part / "policy"
    shutil.rmtree(part, ignore_errors=True)
    learner.save(part)
    output.parent.mkdir(parents=True, exist_ok=True)
    if bf16:
        model = AutoModelForImageTextToText.from_pretrained(policy, dtype="bfloat16")
        model.save_pretrained(policy)
        add_old_names(policy)
    for file in policy.iterdir():
        # safetensors writes files that only their owner may read.
        if file.is_file():
            file.chmod(0o644)
    policy.rename(output)
    shutil.rmtree(part)


if __name__ == "__main__":
    run_job(warm_start)
