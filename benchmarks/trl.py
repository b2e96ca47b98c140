"""A whole training step against TRL's `GRPOTrainer`: play, reward, learn, new weights.

    python -m benchmarks.trl [key=value ...] [--rounds 5] [--micro 24] [--threads 2]

Both train the policy of `revseg_tiny` from the same folder, on the same prompts in the same order:
one turn with 16 images, 24 prompts x 8 answers of at most 48 tokens, a reward that costs nothing (a
hash of the text), the same loss and optimizer. Ours is the real pools: rollout actors with vLLM,
learner ranks with DeepSpeed, weights by shared memory. TRL's trainer has a process of its own,
plays with Hugging Face `generate`, and learns in micro-batches of `--micro` rows. They take turns
in one run, a step each. The learning rate is so small that both sample from nearly the same policy
all the time. What they have in common, and where they differ, is printed with the figures.

Without TRL it says so and ends: `pip install trl`.
"""

from __future__ import annotations

import importlib
import statistics
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors.learner_pool import LearnerPool
from actors.rollout import Played, RolloutPool
from actors.setup import make_system
from benchmarks.measuring import argument_parser, spread
from cluster.placement import Placement
from cluster.start import join
from configs.load import load as load_config
from configs.load import resolve, validate
from configs.schema import Config
from core.grpo import judge
from core.types import Group, Reward, Sample, View
from data.frames.reading import show_views
from data.load import load_samples
from models.dialogue import load_dialogue
from models.families import family_of
from models.prompt_tokens import opening_questions
from ray_jobs.driver.run import prepare_data

SKIPPED = "skipped: trl is not installed (pip install trl)"

# One turn in place of two, one rate, and credit for the whole answer. Half of the answers are
# played at once, so that the ranks learn from the first half while the second is played.
SETTINGS = (
    "revseg_tiny",
    "system.options.decompose=false",
    "system.options.max_tokens_1=24",
    "system.options.max_tokens_2=24",
    "grpo.per_turn_credit=false",
    "rollout.max_num_seqs=96",
    "learner.row_tokens=1024",
    "learner.schedule=constant",
    "learner.lr=1e-6",
)


@dataclass(frozen=True)
class Step:
    """One training step.

    Attributes:
        seconds: all of it.
        tokens: mean number of tokens of an answer.
    """

    seconds: float
    tokens: float


def trl_version() -> str:
    """Return the version of TRL; empty if it is not installed."""
    try:
        import trl
    except ImportError:
        return ""
    return str(trl.__version__)


def reward_of(text: str) -> float:
    """Return a number between 0 and 1 that says nothing about the text."""
    return zlib.crc32(text.encode()) / 2**32


class Ours:
    """Rollout actors and learner ranks, as in a run."""

    def __init__(self, cfg: Config, placement: Placement) -> None:
        self.cfg = cfg
        self.rollouts = RolloutPool(cfg, placement, learns=True)
        self.learner = LearnerPool(cfg, placement)
        self.rollouts.ready()
        self.prompts: dict[str, list[int]] = {}

    def step(self, number: int, samples: Sequence[Sample]) -> Step:
        """Make a step, streamed as in `ray_jobs.train`: groups are learned while others play."""
        began = time.monotonic()
        size = self.cfg.rollout.group_size
        batch = self.learner.begin()
        tokens: list[int] = []
        for played in self.rollouts.play(samples, group_size=size, temperature=1.0, step=number):
            batch.add([self._judged(played)], [played.sample.video])
            tokens += [len(episode.turns[0].completion_ids) for episode in played.episodes]
        batch.finish()
        self.rollouts.take(self.learner.publish(number))
        return Step(time.monotonic() - began, statistics.mean(tokens))

    def _judged(self, played: Played) -> Group:
        self.prompts[played.sample.uid] = list(played.episodes[0].turns[0].prompt_ids)
        rewards = []
        for episode in played.episodes:
            rewards.append(Reward(reward_of(episode.turns[0].text), {}))
        return judge(Group(played.sample.uid, played.episodes, tuple(rewards)))

    def close(self) -> None:
        """End all actors."""
        self.rollouts.close()
        self.learner.close()


def message_of(cfg: Config, sample: Sample) -> tuple[list[dict[str, str]], list[Any]]:
    """Return the user message about a sample as chat templates take it, and its images."""
    from PIL import Image

    [question] = opening_questions(make_system(cfg), sample)
    views = [piece for piece in question.content if isinstance(piece, View)]
    images = [Image.fromarray(pixels) for _, pixels in show_views(sample.video, views)]
    pieces: list[dict[str, str]] = []
    for piece in question.content:
        if isinstance(piece, str):
            pieces.append({"type": "text", "text": piece})
        else:
            pieces.append({"type": "image"})
    return pieces, images


class Turnstile:
    """Lets the trainer make one step at a time."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        # What ended the trainer.
        self.error: BaseException | None = None

    def callback(self) -> Any:
        """Return the trainer's callback. A step begins with the reading of its rows."""
        from transformers import TrainerCallback

        turnstile = self

        class Wait(TrainerCallback):
            def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
                turnstile.go.acquire()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                turnstile.ended.release()
                turnstile.go.acquire()

        return Wait()

    def run(self, train: Callable[[], object]) -> None:
        """Train, in a thread of its own."""
        try:
            train()
        except BaseException as error:
            # Raised where the step is waited for.
            self.error = error
        self.ended.release()

    def one_step(self) -> None:
        """Let one step through, and wait for its end."""
        self.go.release()
        self.ended.acquire()
        if self.error is not None:
            raise RuntimeError("TRL's trainer ended") from self.error


class Trl:
    """TRL's trainer in a process of its own; it makes a step when it is asked to."""

    def __init__(self, cfg: Config, samples: Sequence[Sample], micro: int, threads: int) -> None:
        """Load the policy, and train up to the first step.

        Args:
            samples: those of all steps, in order.
            micro: rows of a forward and backward pass.
            threads: of PyTorch.
        """
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from trl import GRPOTrainer

        folder = resolve(cfg.policy.path)
        family = family_of(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        if cfg.learner.freeze_vision:
            model.get_submodule(family.vision_tower).requires_grad_(False)
        self.processor = AutoProcessor.from_pretrained(folder, padding_side="left")
        self.processor.image_processor.size = family.processor_size
        self.messages = [message_of(cfg, sample) for sample in samples]
        self.turnstile = Turnstile()
        self.trainer = GRPOTrainer(
            model=model,
            reward_funcs=hashed_rewards,
            args=grpo_config(cfg, len(samples), micro),
            train_dataset=self._dataset(),
            processing_class=self.processor,
            callbacks=[self.turnstile.callback()],
        )

        def train() -> None:
            torch.set_num_threads(threads)
            self.trainer.train()

        threading.Thread(target=self.turnstile.run, args=(train,), daemon=True).start()

    def _dataset(self) -> Any:
        """Return the samples in order. Pixels stay as they are; a column would pack them."""
        # By name: this project has a folder called so, too, and checkers take it for the package.
        package = importlib.import_module("datasets")
        numbers = list(range(len(self.messages)))
        return package.Dataset.from_dict({"number": numbers}).with_transform(self._rows)

    def _rows(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        """Return the columns of some samples."""
        prompts: list[Any] = []
        images: list[Any] = []
        for number in batch["number"]:
            pieces, shown = self.messages[number]
            prompts.append([{"role": "user", "content": pieces}])
            images.append(shown)
        return {"prompt": prompts, "images": images}

    def step(self) -> Step:
        """Make the next step."""
        began = time.monotonic()
        self.turnstile.one_step()
        seconds = time.monotonic() - began
        return Step(seconds, self.trainer._metrics["train"]["completions/mean_length"][-1])

    def prompt(self, number: int) -> list[int]:
        """Return the tokens of a prompt as TRL makes them."""
        from trl.data_utils import prepare_multimodal_messages

        columns = self._rows({"number": [number]})
        message = prepare_multimodal_messages(columns["prompt"][0], images=columns["images"][0])
        found = self.processor.apply_chat_template(
            conversation=[message],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        return [int(token) for token in found["input_ids"][0]]


def hashed_rewards(completions: Sequence[Any], **_: Any) -> list[float]:
    """Return the reward of each answer, as a reward function of TRL."""
    return [reward_of(completion[0]["content"]) for completion in completions]


def grpo_config(cfg: Config, samples: int, micro: int) -> Any:
    """Return TRL's settings: those of the configuration."""
    from trl import GRPOConfig

    dialogue = load_dialogue(resolve(cfg.policy.path))
    allowed = set(dialogue.allowed_ids())
    banned = sorted(set(range(len(dialogue.tokenizer))) - allowed)
    learner = cfg.learner
    rows = cfg.rollout.prompts_per_step * cfg.rollout.group_size
    return GRPOConfig(
        output_dir=tempfile.mkdtemp(prefix="trl"),
        use_cpu=True,
        bf16=False,
        seed=cfg.seed,
        # A step, and how its answers are made.
        max_steps=samples // cfg.rollout.prompts_per_step,
        shuffle_dataset=False,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=rows // micro,
        num_generations=cfg.rollout.group_size,
        max_completion_length=most_tokens(cfg),
        temperature=cfg.rollout.temperature,
        top_p=cfg.rollout.top_p,
        generation_kwargs={"suppress_tokens": banned},
        # The loss: a mean over the tokens of the whole step.
        loss_type="dapo",
        beta=cfg.grpo.kl_coef,
        epsilon=cfg.grpo.clip_low,
        epsilon_high=cfg.grpo.clip_high,
        # The optimizer.
        learning_rate=learner.lr,
        lr_scheduler_type="constant",
        weight_decay=learner.weight_decay,
        adam_beta1=learner.betas[0],
        adam_beta2=learner.betas[1],
        max_grad_norm=learner.grad_clip,
        gradient_checkpointing=learner.gradient_checkpointing,
        # Nothing but training.
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def most_tokens(cfg: Config) -> int:
    """Return the most tokens of an answer."""
    options = cfg.system.options
    return int(options["max_tokens_1"]) + int(options["max_tokens_2"])


def same_prompts(ours: Ours, trl: Any, samples: Sequence[Sample]) -> str:
    """Compare the tokens of the prompts of the first step; return what was found."""
    same = 0
    for number, sample in enumerate(samples):
        same += ours.prompts[sample.uid] == ray.get(trl.prompt.remote(number))
    return f"{same} of {len(samples)} prompts have the same tokens"


def print_settings(cfg: Config, version: str, micro: int, threads: int) -> None:
    """Print what both have in common, and where they differ."""
    rollout = cfg.rollout
    learner = cfg.learner
    options = cfg.system.options
    print(
        f"both: {rollout.prompts_per_step} prompts x {rollout.group_size} answers of at most "
        f"{most_tokens(cfg)} tokens, {options['num_frames']} images of {options['frame_height']} x "
        f"{options['frame_width']}; {cfg.policy.dtype}; token mean, no KL, AdamW {learner.lr:g}, "
        f"decay {learner.weight_decay:g}, clipped at {learner.grad_clip:g}, frozen vision tower"
    )
    print(
        f"ours: {rollout.workers} engine and {learner.world_size} ranks with a thread each, frames "
        "read from the videos, groups of equal rewards left out"
    )
    print(
        f"TRL {version}: generate and training in one process of {threads} threads, micro-batches "
        f"of {micro} rows, images given as decoded, no decay of norms and biases"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("settings", nargs="*", help="key=value")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--micro", type=int, default=24, help="rows of TRL's micro-batch")
    parser.add_argument("--threads", type=int, default=2, help="of TRL's process")
    options = parser.parse_args(argv)
    version = trl_version()
    if not version:
        print(SKIPPED)
        return

    cfg = load_config([*SETTINGS, *options.settings])
    validate(cfg)
    rows = cfg.rollout.prompts_per_step * cfg.rollout.group_size
    if rows % options.micro:
        parser.error(f"--micro {options.micro}: must divide the {rows} answers of a step")
    prepare_data(cfg)
    placement = join(cfg)
    samples = load_samples(cfg.data.format, cfg.data.root, cfg.data.train_split, cfg.data.no_target)
    prompts = cfg.rollout.prompts_per_step
    # The first round warms both up.
    steps = options.rounds + 1
    chosen = [samples[number % len(samples)] for number in range(steps * prompts)]
    place = placement.options("rollout")
    trl = ray.remote(Trl).options(**place).remote(cfg, chosen, options.micro, options.threads)
    ours = Ours(cfg, placement)
    print_settings(cfg, version, options.micro, options.threads)

    pairs: list[tuple[Step, Step]] = []
    for number in range(steps):
        own = ours.step(number + 1, chosen[number * prompts : (number + 1) * prompts])
        theirs = ray.get(trl.step.remote())
        if number == 0:
            print(same_prompts(ours, trl, chosen[:prompts]), flush=True)
            continue
        pairs.append((own, theirs))
        print(f"round {number}: {own.seconds:.2f} s, TRL {theirs.seconds:.2f} s", flush=True)
    print_table(pairs)
    ours.close()
    ray.shutdown()


def print_table(pairs: Sequence[tuple[Step, Step]]) -> None:
    """Print the seconds and lengths of both, and the ratio of the medians with its spread."""
    print("| | seconds a step, median (spread) | tokens of an answer |\n|---|---|---|")
    medians: list[float] = []
    for name, steps in zip(("ours", "TRL"), zip(*pairs, strict=True), strict=True):
        seconds = [step.seconds for step in steps]
        tokens = statistics.mean(step.tokens for step in steps)
        medians.append(statistics.median(seconds))
        print(f"| {name} | {spread(seconds)} | {tokens:.1f} |")
    ratios = [theirs.seconds / own.seconds for own, theirs in pairs]
    print(
        f"TRL / ours: {medians[1] / medians[0]:.2f} (of a round: {min(ratios):.2f} to "
        f"{max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
