"""Our rollout actor against the bare engine and Hugging Face `generate`: `python benchmarks/rollouts.py [SETTINGS]`.

Ours plays fresh samples through `actors.rollout`. The bare engine, vLLM in an actor of its own with the same settings,
then answers the same turns with the same seeds, the second turns as soon as the first have ended: what it does not
have is a system, a parser, frames to decode and a dialogue to keep. `generate` answers the same prompts, a group at a
time with the group as its batch; it samples other tokens of the same distribution. It is slow and has its turn in every
fourth round. All in one run, interleaved; figures are ratios of tokens sampled in a second.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import ray

from actors.rollout import Played, RolloutPool, engine_settings
from cluster.start import join
from configs.load import load as load_config
from configs.load import validate
from configs.schema import Config
from core.types import Episode, MediaTable
from models.engine.conversation import seed_of
from models.engine.engine import Engine
from models.engine.settings import EngineSettings
from ray_jobs.driver.run import prepare_data

Jobs = list[
    tuple[tuple[Episode, ...], MediaTable, tuple[int | str, ...]]
]  # groups: episodes, pixels, key


def short(ids: Sequence[int], image_id: int) -> list[int]:
    """One placeholder for each image."""
    return [
        token
        for token, run in itertools.groupby(ids)
        for _ in range(1 if token == image_id else len(list(run)))
    ]


class Bare:
    """The engine alone."""

    async def __init__(self, settings: EngineSettings, max_tokens: tuple[int, ...]) -> None:  # type: ignore[misc]
        self.engine = Engine(settings)
        self.max_tokens = max_tokens

    async def run(self, jobs: Jobs) -> tuple[float, int]:
        """(seconds, tokens sampled), with those in which pixels become what vLLM takes."""
        from PIL import Image

        image_id = self.engine.dialogue.image_id
        begin = time.monotonic()
        images = [
            {digest: Image.fromarray(pixels) for digest, pixels in media.items()}
            for _, media, _ in jobs
        ]
        converted_s = time.monotonic() - begin
        plans = [
            (
                [short(turn.prompt_ids, image_id) for turn in episode.turns],
                [[(table[m.digest], m.digest) for m in turn.media] for turn in episode.turns],
                (*key, g),
            )
            for (episodes, _, key), table in zip(jobs, images, strict=True)
            for g, episode in enumerate(episodes)
        ]
        begin = time.monotonic()
        counts = await asyncio.gather(*(self._dialogue(*plan) for plan in plans))
        return converted_s + time.monotonic() - begin, sum(counts)

    async def _dialogue(
        self, prompts: list[list[int]], shown: list[list[Any]], key: tuple[int | str, ...]
    ) -> int:
        ids: list[int] = []
        images: list[Any] = []
        count = 0
        for number, (prompt, new) in enumerate(zip(prompts, shown, strict=True)):
            ids += prompt
            images += new
            _, said, _ = await self.engine.generate(
                ids,
                [pixels for pixels, _ in images],
                [digest for _, digest in images],
                seed=seed_of(*key, number),
                max_tokens=self.max_tokens[number],
                temperature=1.0,
                top_p=1.0,
            )
            ids += said
            count += len(said)
        return count


class Generate:
    """Hugging Face `generate`, a group as a batch; a second turn of other lengths is padded on the left."""

    def __init__(self, cfg: Config, max_tokens: tuple[int, ...]) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        from configs.load import resolve
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

    def run(self, jobs: Jobs) -> tuple[float, int]:
        """(seconds, tokens sampled)."""
        begin = time.monotonic()
        count = 0
        for episodes, media, _ in jobs:
            for turn in range(max(len(e.turns) for e in episodes)):
                count += self._turn([e for e in episodes if len(e.turns) > turn], media, turn)
        return time.monotonic() - begin, count

    def _turn(self, episodes: list[Episode], media: MediaTable, turn: int) -> int:
        import torch

        rows = [
            [i for t in e.turns[:turn] for i in (*t.prompt_ids, *t.completion_ids)]
            + list(e.turns[turn].prompt_ids)
            for e in episodes
        ]
        width = max(map(len, rows))
        ids = torch.tensor(
            [[self.pad] * (width - len(row)) + row for row in rows], device=self.device
        )
        seen = torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device
        )
        images = [media[m.digest] for e in episodes for t in e.turns[: turn + 1] for m in t.media]
        patches, grid = self.pixels(images)
        with torch.no_grad():
            out = self.model.generate(
                input_ids=ids,
                attention_mask=seen,
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
        said = out[:, width:]
        ended = (said == self.end).cumsum(1)
        return int(((ended == 0) | ((ended == 1) & (said == self.end))).sum())


def as_jobs(played: Sequence[Played], cfg: Config, step: int) -> Jobs:
    return [(p.episodes, ray.get(p.media_ref), (cfg.seed, step, p.sample.uid)) for p in played]


def spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", default=["revseg_tiny"], help="preset and key=value")
    parser.add_argument("--rounds", type=int, default=12)
    options = parser.parse_args()
    cfg = load_config(options.settings)
    validate(cfg)
    prepare_data(cfg)
    from data.load import load_samples

    placement = join(cfg)
    samples = load_samples(cfg.data.format, cfg.data.root, cfg.data.train_split, cfg.data.no_target)
    max_tokens = tuple(int(cfg.system.options[name]) for name in ("max_tokens_1", "max_tokens_2"))
    pool = RolloutPool(cfg, placement)
    pool.ready()
    place = placement.options("rollout")
    bare = (
        ray.remote(Bare).options(**place).remote(engine_settings(cfg, placement.device), max_tokens)
    )
    plain = ray.remote(Generate).options(**place).remote(cfg, max_tokens)
    rounds: list[tuple[float, float, float | None]] = []
    for step in range(options.rounds + 1):
        prompts = cfg.rollout.prompts_per_step
        chosen = [samples[(step * prompts + i) % len(samples)] for i in range(prompts)]
        begin = time.monotonic()
        played = list(
            pool.play(chosen, group_size=cfg.rollout.group_size, temperature=1.0, step=step)
        )
        ours_s = time.monotonic() - begin
        tokens = sum(len(t.completion_ids) for p in played for e in p.episodes for t in e.turns)
        jobs = as_jobs(played, cfg, step)
        bare_s, bare_tokens = ray.get(bare.run.remote(jobs))
        assert bare_tokens == tokens, f"same seeds, other tokens: {bare_tokens} and {tokens}"
        hf_s, hf_tokens = ray.get(plain.run.remote(jobs)) if step % 4 == 0 else (0.0, 0)
        if step:  # the first round warms all three up
            rounds.append(
                (tokens / ours_s, bare_tokens / bare_s, hf_tokens / hf_s if hf_s else None)
            )
    print(
        f"{options.rounds} rounds of {cfg.rollout.prompts_per_step} prompts x {cfg.rollout.group_size} episodes"
    )
    print("| | tokens/s, median (spread) | ours / it, median (spread) |\n|---|---|---|")
    for name, column in (("ours", 0), ("bare vLLM engine", 1), ("Hugging Face generate", 2)):
        pairs = [(r[0], speed) for r in rounds if (speed := r[column]) is not None]
        speeds = [speed for _, speed in pairs]
        ratios = [ours / speed for ours, speed in pairs]
        print(f"| {name} | {spread(speeds, 0)} | {spread(ratios, 2)} |")
    pool.close()
    ray.shutdown()


if __name__ == "__main__":
    main()
