"""A real vLLM engine that takes adapters alone, against the same adapters in Transformers."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core.types import Turn
from models.engine.engine import Engine
from models.engine.gallery import Gallery
from models.engine.settings import AdapterSettings, EngineSettings
from models.families import family_of
from models.policy import lora
from tests.models import tiny_engine
from tests.models.engine.test_engine import (
    EXACT,
    Bench,
    completions,
    dialogues,
    take,
    take_in_flight,
)

# A part of the packed projection, and a rank that vLLM has to fill up.
TARGETS = ("q_proj", "v_proj", "up_proj", "down_proj")
ADAPTER = AdapterSettings(rank=3, alpha=4.0, targets=TARGETS)


class AdapterBench(Bench):
    """An engine that takes adapters, and the adapted policy in Transformers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.base = tiny_engine.model(tiny_engine.tokenizer(), seed=0)
        settings = lora.Lora(ADAPTER.rank, ADAPTER.alpha, TARGETS)
        lora.add(self.policy, settings, family_of(folder))

    async def start(self, folder: Path) -> Engine:
        return Engine(
            EngineSettings(
                str(folder),
                max_num_seqs=16,
                kv_cache_bytes=64 << 20,
                max_images=8,
                adapter=ADAPTER,
            )
        )

    def state(self, policy: torch.nn.Module) -> dict[str, torch.Tensor]:
        return lora.adapter(policy)

    def largest_gap(self, policy: torch.nn.Module) -> float:
        """Play two dialogues; return the largest gap to a policy."""
        return self.largest_of(self.run(dialogues(self.engine, 2)), policy)

    def largest_of(
        self, played: list[tuple[list[Turn], Gallery]], policy: torch.nn.Module
    ) -> float:
        """Return the largest gap of some dialogues to a policy."""
        own = self.policy
        self.policy = policy
        largest = max(self.gap(turns, gallery) for turns, gallery in played)
        self.policy = own
        return largest


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdapterBench]:
    bench = AdapterBench(tiny_engine.build(tmp_path_factory.mktemp("policy")))
    yield bench
    bench.engine.close()
    bench.loop.close()


def adapted(policy: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Return a copy of the policy with other adapters, which move its log-probs."""
    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in lora.adapter(other).values():
            tensor.normal_(0, 0.2, generator=generator)
    return other


def merged(bench: AdapterBench) -> torch.nn.Module:
    """Return a plain policy whose weights have the adapter of the bench's merged in."""
    weights = {name: weight.merged() for name, weight in lora.weights(bench.policy).items()}
    bench.base.load_state_dict(weights)
    return bench.base


def test_before_the_first_adapter_it_is_the_base(bench: AdapterBench) -> None:
    assert bench.engine.version == 0
    assert bench.largest_gap(bench.base) < EXACT


def test_adapters_equal_transformers_and_merged_weights(bench: AdapterBench) -> None:
    for seed in (1, 2):
        before = bench.policy
        bench.update(adapted(before, seed))
        played = bench.run(dialogues(bench.engine, 3))
        assert {turn.version for turns, _ in played for turn in turns} == {bench.engine.version}
        assert bench.largest_of(played, bench.policy) < EXACT
        assert bench.largest_of(played, merged(bench)) < EXACT
        assert bench.largest_of(played, before) > 100 * EXACT


def test_an_adapter_taken_in_flight(bench: AdapterBench) -> None:
    take_in_flight(bench, adapted(bench.policy, 3))


def test_a_damaged_adapter_is_refused_and_the_old_one_stays(bench: AdapterBench) -> None:
    version = bench.engine.version
    old = bench.policy
    before = completions(bench.run(dialogues(bench.engine, 2)))
    weights = bench.written(adapted(old, 4))
    assert bench.writer.newest is not None
    bench.writer.newest.file.data[-100] ^= 1
    message = f"weights: tensor '{weights.names[-1]}' is damaged in the engine of pid {os.getpid()}"
    with pytest.raises(ValueError, match=message):
        bench.run(take(bench.engine, weights))
    assert bench.engine.version == version
    assert completions(bench.run(dialogues(bench.engine, 2))) == before
    assert bench.largest_gap(old) < EXACT

    bench.update(adapted(old, 5))
    assert bench.largest_gap(bench.policy) < EXACT
