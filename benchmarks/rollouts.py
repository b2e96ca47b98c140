"""The rollout actor against the bare engine and Hugging Face `generate`.

    python -m benchmarks.rollouts [PRESET] [key=value ...] [--rounds 12]

The rollout actor plays fresh samples through `actors.rollout`. The bare engine, vLLM in an actor of
its own with the same settings, then answers the same turns with the same seeds, the second turns as
soon as the first have ended; it has no system, no parser, no frames to decode and no dialogue to
keep. `generate` answers the same prompts, a group at a time as a batch, and samples other tokens of
the same distribution. It is slow and takes part in every fourth round. All take turns in one run;
figures are ratios of tokens sampled in a second.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from actors.rollout import Played, RolloutPool, engine_settings
from benchmarks.measuring import argument_parser, spread
from cluster.start import join
from configs.load import load as load_config
from configs.load import resolve, validate
from configs.schema import Config
from core.types import Episode, MediaTable
from data.frames.shown import media_of, read_shown
from data.load import load_samples
from models.engine.conversation import seed_of
from models.engine.engine import Engine
from models.engine.settings import EngineSettings
from ray_jobs.driver.run import prepare_data


@dataclass(frozen=True)
class Job:
    """A group to be answered again: its episodes, their images, and its sampling key."""

    episodes: tuple[Episode, ...]
    media: MediaTable
    key: tuple[int | str, ...]


@dataclass(frozen=True)
class Round:
    """Tokens a second; `generate` is None if it took no part."""

    ours: float
    bare: float
    generate: float | None


def one_placeholder_each(ids: Sequence[int], image_id: int) -> list[int]:
    """Replace the run of placeholders of each image by a single one."""
    short: list[int] = []
    for token, run in itertools.groupby(ids):
        short += [token] if token == image_id else list(run)
    return short


class Bare:
    """The engine alone."""

    # Ray awaits an asynchronous constructor; the engine needs a running event loop.
    async def __init__(  # type: ignore[misc]
        self, settings: EngineSettings, max_tokens: tuple[int, ...]
    ) -> None:
        self.engine = Engine(settings)
        self.max_tokens = max_tokens

    async def run(self, jobs: Sequence[Job]) -> tuple[float, int]:
        """Return seconds and tokens sampled."""
        # Prompts are prepared before the clock starts: a rollout actor gets them for free too.
        image_id = self.engine.dialogue.image_id
        prepared = []
        for job in jobs:
            for episode in job.episodes:
                prompts = [
                    one_placeholder_each(turn.prompt_ids, image_id) for turn in episode.turns
                ]
                prepared.append(prompts)

        began = time.monotonic()
        prompts_of = iter(prepared)
        dialogues = []
        for job in jobs:
            for number, episode in enumerate(job.episodes):
                key = (*job.key, number)
                dialogues.append(self._dialogue(episode, next(prompts_of), job.media, key))
        counts = await asyncio.gather(*dialogues)
        return time.monotonic() - began, sum(counts)

    async def _dialogue(
        self,
        episode: Episode,
        prompts: Sequence[Sequence[int]],
        images: MediaTable,
        key: tuple[int | str, ...],
    ) -> int:
        ids: list[int] = []
        digests: list[str] = []
        count = 0
        for number, turn in enumerate(episode.turns):
            ids += prompts[number]
            digests += [media.digest for media in turn.media]
            _, completion, _ = await self.engine.generate(
                ids,
                [images[digest] for digest in digests],
                digests,
                seed=seed_of(*key, number),
                max_tokens=self.max_tokens[number],
                temperature=1.0,
                top_p=1.0,
            )
            ids += completion
            count += len(completion)
        return count


class Generate:
    """Hugging Face `generate`, a group as a batch; shorter prompts are padded on the left."""

    def __init__(self, cfg: Config, max_tokens: tuple[int, ...]) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        from models.dialogue import load_dialogue
        from models.policy.pixels import Pixels
        from models.policy.policy import DTYPES

        folder = resolve(cfg.policy.path)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=DTYPES[cfg.policy.dtype])
        self.model = model.to(self.device).eval()
        self.pixels = Pixels(folder)
        self.max_tokens = max_tokens
        dialogue = load_dialogue(folder)
        self.end = dialogue.end_id
        self.pad = dialogue.tokenizer.pad_token_id
        vocabulary = model.config.get_text_config().vocab_size
        self.banned = sorted(set(range(vocabulary)) - set(dialogue.allowed_ids()))

    def run(self, jobs: Sequence[Job]) -> tuple[float, int]:
        """Return seconds and tokens sampled."""
        began = time.monotonic()
        count = 0
        for job in jobs:
            most_turns = max(len(episode.turns) for episode in job.episodes)
            for turn in range(most_turns):
                playing = [e for e in job.episodes if len(e.turns) > turn]
                count += self._turn(playing, job.media, turn)
        return time.monotonic() - began, count

    def _turn(self, episodes: Sequence[Episode], media: MediaTable, turn: int) -> int:
        import torch

        rows = []
        images = []
        for episode in episodes:
            rows.append(ids_before(episode, turn))
            for seen in episode.turns[: turn + 1]:
                images += [media[image.digest] for image in seen.media]
        width = max(len(row) for row in rows)
        ids = [[self.pad] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        patches, grid = self.pixels(images)
        with torch.no_grad():
            out = self.model.generate(
                input_ids=torch.tensor(ids, device=self.device),
                attention_mask=torch.tensor(mask, device=self.device),
                pixel_values=patches.to(self.device),
                image_grid_thw=grid.to(self.device),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=self.max_tokens[turn],
                eos_token_id=self.end,
                pad_token_id=self.pad,
                suppress_tokens=self.banned,
            )
        completions = out[:, width:]
        is_end = completions == self.end
        ends_so_far = is_end.cumsum(1)
        is_sampled = (ends_so_far == 0) | ((ends_so_far == 1) & is_end)
        return int(is_sampled.sum())


def ids_before(episode: Episode, turn: int) -> list[int]:
    """All tokens before the completion of a turn."""
    ids: list[int] = []
    for earlier in episode.turns[:turn]:
        ids += [*earlier.prompt_ids, *earlier.completion_ids]
    return ids + list(episode.turns[turn].prompt_ids)


def as_jobs(played: Sequence[Played], cfg: Config, step: int) -> list[Job]:
    jobs = []
    for group in played:
        key = (cfg.seed, step, group.sample.uid)
        shown = read_shown(group.sample.video, media_of(group.episodes))
        jobs.append(Job(group.episodes, shown, key))
    return jobs


def sampled_tokens(jobs: Sequence[Job]) -> int:
    count = 0
    for job in jobs:
        for episode in job.episodes:
            count += sum(len(turn.completion_ids) for turn in episode.turns)
    return count


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("settings", nargs="*", default=["revseg_tiny"], help="preset and key=value")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    cfg = load_config(options.settings)
    validate(cfg)
    prepare_data(cfg)
    rounds = run_rounds(cfg, options.rounds)

    prompts = cfg.rollout.prompts_per_step
    print(f"{options.rounds} rounds of {prompts} prompts x {cfg.rollout.group_size} episodes")
    print("| | tokens/s, median (spread) | ours / it, median (spread) |\n|---|---|---|")
    print_row("ours", rounds, [each.ours for each in rounds])
    print_row("bare vLLM engine", rounds, [each.bare for each in rounds])
    print_row("Hugging Face generate", rounds, [each.generate for each in rounds])
    ray.shutdown()


def run_rounds(cfg: Config, number: int) -> list[Round]:
    placement = join(cfg)
    samples = load_samples(cfg.data.format, cfg.data.root, cfg.data.train_split, cfg.data.no_target)
    max_tokens = tuple(int(cfg.system.options[name]) for name in ("max_tokens_1", "max_tokens_2"))
    pool = RolloutPool(cfg, placement)
    pool.ready()
    place = placement.options("rollout")
    settings = engine_settings(cfg, placement.device)
    bare = ray.remote(Bare).options(**place).remote(settings, max_tokens)
    generate = ray.remote(Generate).options(**place).remote(cfg, max_tokens)

    rounds: list[Round] = []
    prompts = cfg.rollout.prompts_per_step
    for step in range(number + 1):
        chosen = [samples[(step * prompts + i) % len(samples)] for i in range(prompts)]
        began = time.monotonic()
        played = list(
            pool.play(chosen, group_size=cfg.rollout.group_size, temperature=1.0, step=step)
        )
        ours_s = time.monotonic() - began
        jobs = as_jobs(played, cfg, step)
        tokens = sampled_tokens(jobs)
        bare_s, bare_tokens = ray.get(bare.run.remote(jobs))
        assert bare_tokens == tokens, f"same seeds, other tokens: {bare_tokens} and {tokens}"
        generate_speed = None
        if step % 4 == 0:
            generate_s, generate_tokens = ray.get(generate.run.remote(jobs))
            generate_speed = generate_tokens / generate_s
        # The first round warms all three up.
        if step > 0:
            rounds.append(Round(tokens / ours_s, bare_tokens / bare_s, generate_speed))
    pool.close()
    return rounds


def print_row(name: str, rounds: Sequence[Round], speeds: Sequence[float | None]) -> None:
    present = []
    ratios = []
    for each, speed in zip(rounds, speeds, strict=True):
        if speed is not None:
            present.append(speed)
            ratios.append(each.ours / speed)
    print(f"| {name} | {spread(present, '.0f')} | {spread(ratios)} |")


if __name__ == "__main__":
    main()
