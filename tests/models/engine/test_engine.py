"""A real vLLM engine against the same policy in Transformers.

What it samples, scores, sees and takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from cluster.weight_writer import WeightWriter
from cluster.weights import WeightVersion
from core.shared_file import SHARED_NAME, hold
from core.types import Media, Turn, Video, View
from models.engine.conversation import seed_of
from models.engine.counting import EngineCounter
from models.engine.engine import Engine
from models.engine.exact_logprobs import score_exactly
from models.engine.gallery import Gallery
from models.engine.head_start import EngineProcess
from models.engine.settings import SMALL_VOCABULARY, EngineSettings, ban
from models.prompt_tokens import count_prompt
from tests.models import tiny_engine

# In fp32 on a CPU the mean gap is about 2e-6.
EXACT = 1e-4
VIDEO = Video("v", "nowhere", tuple(f"{i:05d}" for i in range(24)), 112, 112)


def show(video: Video, views: Sequence[View]) -> list[tuple[Media, np.ndarray]]:
    """Noise frames.

    The digest names the pixels, as that of `data.frames.reading.show_views` does.
    """
    out = []
    for view in views:
        rng = np.random.default_rng(view.frame)
        pixels = rng.integers(0, 256, (view.height, view.width, 3), dtype=np.uint8)
        out.append((Media(f"{video.uid}-{view.frame}-{view.height}x{view.width}", view), pixels))
    return out


class Bench:
    """One engine, its event loop, and the policy in Transformers that has the engine's weights."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.Runner()
        self.policy = tiny_engine.model(tiny_engine.tokenizer(), seed=0)
        # It writes over the version before the last: nothing in the engine may lie there.
        self.writer = WeightWriter()
        self.engine: Engine = self.run(self.start(folder))
        self.every_ban = self.engine.ban
        # Few words, so that a random policy soon says the end-of-turn token and a second turn can
        # follow.
        self.engine.ban = {"allowed_token_ids": [*range(60, 72), self.engine.dialogue.end_id]}

    async def start(self, folder: Path) -> Engine:
        return Engine(
            EngineSettings(str(folder), max_num_seqs=16, kv_cache_bytes=64 << 20, max_images=8)
        )

    def run(self, coroutine):
        return self.loop.run(coroutine)

    def update(self, policy: torch.nn.Module) -> None:
        """Gives the engine a policy's weights."""
        self.run(take(self.engine, self.written(policy)))
        self.policy = policy

    def written(self, policy: torch.nn.Module) -> WeightVersion:
        """Return a policy's weights as the next version, in shared memory."""
        state = self.state(policy)
        dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
        shapes = tuple(tuple(tensor.shape) for tensor in state.values())
        draft = self.writer.draft(tuple(state), dtypes, shapes)
        for name, tensor in state.items():
            draft.put(name, tensor)
        return draft.finish(self.engine.version + 1)

    def state(self, policy: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Return what the engine gets of a policy."""
        return policy.state_dict()

    def gaps(
        self, turns: Sequence[Turn], gallery: Gallery, temperature: float = 1.0
    ) -> torch.Tensor:
        """Absolute differences of log-probs to one teacher-forced forward over the dialogue."""
        from transformers import AutoImageProcessor

        ids: list[int] = []
        sampled: list[bool] = []
        shown: list[np.ndarray] = []
        engine_logprobs: list[float] = []
        for turn in turns:
            ids += [*turn.prompt_ids, *turn.completion_ids]
            sampled += [False] * len(turn.prompt_ids) + [True] * len(turn.completion_ids)
            shown += [gallery.images[media.digest] for media in turn.media]
            engine_logprobs += turn.logprobs

        processor = AutoImageProcessor.from_pretrained(self.engine.settings.path)
        size = self.engine.dialogue.family.processor_size
        images = processor(shown, return_tensors="pt", size=size)
        ids_1T = torch.tensor([ids])
        types = (ids_1T == self.engine.dialogue.image_id).int()
        with torch.no_grad():
            output = self.policy(input_ids=ids_1T, mm_token_type_ids=types, **images)
        logits_TV = output.logits[0, :-1].float()

        banned_V = torch.full_like(logits_TV[0], float("-inf"))
        banned_V[self.engine.ban["allowed_token_ids"]] = 0.0
        logprobs_TV = torch.log_softmax((logits_TV + banned_V) / temperature, -1)
        logprobs_T = logprobs_TV.gather(-1, ids_1T[0, 1:, None])[:, 0]
        is_sampled_T = torch.tensor(sampled[1:])
        return (logprobs_T[is_sampled_T] - torch.tensor(engine_logprobs)).abs()

    def gap(self, turns: Sequence[Turn], gallery: Gallery, temperature: float = 1.0) -> float:
        return float(self.gaps(turns, gallery, temperature).max())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tiny_engine.build(tmp_path_factory.mktemp("policy")))
    yield bench
    bench.engine.close()
    bench.loop.close()


async def dialogue(engine: Engine, gallery: Gallery, key: int, **options) -> list[Turn]:
    """Two turns with images, if the first one ends within its tokens."""
    engine_ask = engine.ask(gallery, ("test", key), **options)
    first = await engine_ask(
        ["0", View(0, 84, 84), "1", View(1, 56, 84), " Find the dog."], max_tokens=64
    )
    if not first.complete:
        return [first]
    return [first, await engine_ask([View(2, 112, 112), "Locate it."], max_tokens=12)]


async def dialogues(engine: Engine, n: int, **options) -> list[tuple[list[Turn], Gallery]]:
    galleries = [Gallery(VIDEO, show) for _ in range(n)]
    played = await asyncio.gather(
        *(dialogue(engine, g, k, **options) for k, g in enumerate(galleries))
    )
    return list(zip(played, galleries, strict=True))


def test_its_process_was_forked_after_a_head_start(bench: Bench) -> None:
    [process] = bench.engine.llm.engine_core.resources.engine_manager.processes
    assert isinstance(process, EngineProcess)
    assert psutil.Process(process.pid).ppid() != os.getpid()


def test_two_turns_with_images_equal_transformers(bench: Bench) -> None:
    played = bench.run(dialogues(bench.engine, 8))
    assert max(bench.gap(turns, gallery) for turns, gallery in played) < EXACT
    assert any(len(turns) == 2 for turns, _ in played), "no dialogue got to its second turn"
    turns = next(turns for turns, _ in played if len(turns) == 2)
    assert turns[0].completion_ids[-1] == bench.engine.dialogue.end_id
    assert [m.view.frame for m in turns[0].media] == [0, 1]
    assert [m.view.frame for m in turns[1].media] == [2]


def test_temperature_and_greedy(bench: Bench) -> None:
    for turns, gallery in bench.run(dialogues(bench.engine, 2, temperature=0.5)):
        assert bench.gap(turns, gallery, temperature=0.5) < EXACT
    one, two = bench.run(dialogues(bench.engine, 2, temperature=0.0))
    assert one[0] == two[0], "greedy answers do not depend on the key"


def test_same_key_same_answer_other_key_another(bench: Bench) -> None:
    once = completions(bench.run(dialogues(bench.engine, 4)))
    again = completions(bench.run(dialogues(bench.engine, 4)))
    assert once == again
    assert len({str(answers) for answers in once}) == 4
    assert seed_of(0, "v/1", 2) == seed_of(0, "v/1", 2)
    assert seed_of(0, "v/1", 2) != seed_of(0, "v/1", 3)


def completions(played: list[tuple[list[Turn], Gallery]]) -> list[list[Sequence[int]]]:
    """The sampled ids of each dialogue, turn by turn."""
    found = []
    for turns, _ in played:
        found.append([turn.completion_ids for turn in turns])
    return found


def test_banned_ids_are_never_sampled(bench: Bench) -> None:
    """Both ways of banning, for small and for big vocabularies, give the same answer.

    Without, banned ids come.
    """
    engine = bench.engine
    few = bench.engine.ban
    vocabulary = 288
    allowed = bench.every_ban["allowed_token_ids"]
    bans = [
        bench.every_ban,
        {"logit_bias": {i: -1e9 for i in range(vocabulary) if i not in allowed}},
        {},
    ]
    prompt = engine.dialogue.user(["Say something."], first=True, expanded=False)

    async def answers() -> list[tuple[list[int], list[float]]]:
        asked = []
        for seed in range(4):
            sampling = {"max_tokens": 200, "temperature": 2.0, "seed": seed}
            asked.append(engine.generate(prompt, [], [], **sampling))
        said = await asyncio.gather(*asked)
        return [(ids, logprobs) for _, ids, logprobs in said]

    found = []
    for one_ban in bans:
        engine.ban = one_ban
        found.append(bench.run(answers()))
    small, big, free = found
    engine.ban = few
    for (ids, logprobs), (same_ids, same_logprobs) in zip(small, big, strict=True):
        assert ids == same_ids
        assert np.allclose(logprobs, same_logprobs, atol=EXACT)
        assert set(ids) <= set(allowed)
    wanted = set()
    for ids, _ in free:
        wanted |= set(ids)
    assert wanted - set(allowed), "no banned id was wanted: proves nothing"
    assert set(ban(allowed, SMALL_VOCABULARY + 1)) == {"logit_bias"}
    assert set(bench.every_ban) == {"allowed_token_ids"}


@pytest.mark.parametrize("peak", [0.0, 12.0, 18.0])
def test_log_probs_of_a_real_vocabulary_are_exact(peak: float) -> None:
    """A peaked word must not lose the others: torch's own log_softmax is off by 1.6e-4 at 18."""
    from vllm.v1.sample.sampler import Sampler

    score_exactly()
    generator = torch.Generator().manual_seed(0)
    logits_NV = 0.5 * torch.randn(4, 152_064, generator=generator)
    logits_NV[:, 1234] = peak
    tokens_N = torch.tensor([1234, 1234, 5, 152_063])
    found = Sampler.gather_logprobs(logits_NV.log_softmax(-1), 0, tokens_N)
    exact_NV = logits_NV.double().log_softmax(-1)
    exact_N = exact_NV.gather(-1, tokens_N[:, None])[:, 0]
    assert (found.logprobs[:, 0] - exact_N).abs().max() < 5e-6


def test_answer_cut_off_cannot_be_followed(bench: Bench) -> None:
    async def cut() -> Turn:
        ask = bench.engine.ask(Gallery(VIDEO, show), ("cut",))
        turn = await ask(["Hello"], max_tokens=1)
        with pytest.raises(RuntimeError, match="cut off"):
            await ask(["Go on"], max_tokens=1)
        return turn

    turn = bench.run(cut())
    assert not turn.complete
    assert len(turn.completion_ids) == len(turn.logprobs) == 1


def test_questions_on_the_side(bench: Bench) -> None:
    """Independent of each other, repeatable, not trained, exactly scored.

    The dialogue ignores them.
    """

    async def scene(aside: bool) -> tuple[list[Turn], Turn, Gallery]:
        gallery = Gallery(VIDEO, show)
        ask = bench.engine.ask(gallery, ("aside",))
        question: list[str | View] = [View(3, 28, 56), "Where?"]
        how: dict[str, Any] = {"max_tokens": 12, "temperature": 0.6, "top_p": 1.0}
        count = 3 if aside else 0
        answers = [ask.auxiliary(question, **how) for _ in range(count)]
        beside = list(await asyncio.gather(*answers))
        turn = await ask(["0", View(0, 84, 84), " Find the dog."], max_tokens=12)
        return beside, turn, gallery

    beside, turn, gallery = bench.run(scene(True))
    again = bench.run(scene(True))
    (_, alone, _) = bench.run(scene(False))
    assert beside == again[0]
    assert len({t.completion_ids for t in beside}) == 3
    assert turn == again[1] == alone
    assert turn.trainable
    assert not any(t.trainable for t in beside)
    for answer in beside:
        assert bench.gap([answer], gallery, temperature=0.6) < EXACT
        assert [media.view.frame for media in answer.media] == [3]
    assert [media.view.frame for media in turn.media] == [0]


def test_the_engine_sees_the_tokens_that_were_counted_without_it(bench: Bench) -> None:
    """Down to images of one token, below the least of the folder's processor file."""
    engine = bench.engine
    content: list[str | View] = ["0", View(0, 28, 28), "1", View(1, 84, 56), " Find the dog."]
    shown = show(VIDEO, [piece for piece in content if isinstance(piece, View)])
    images = [pixels for _, pixels in shown]
    digests = [media.digest for media, _ in shown]
    prompt = engine.dialogue.user(content, first=True, expanded=False)
    sampling = {"max_tokens": 1, "seed": 0}
    seen, _, _ = bench.run(engine.generate(prompt, images, digests, **sampling))

    counter = EngineCounter(engine.settings.path, engine.dialogue)
    assert len(seen) == counter.prompt(content)
    assert len(seen) == count_prompt(engine.dialogue, content).prompt
    assert seen.count(engine.dialogue.image_id) == 1 + 6


def test_the_policy_counts_its_tokens(bench: Bench) -> None:
    ask = bench.engine.ask(Gallery(VIDEO, show), ("count",))
    assert ask.count("<think>a dog</think>") == 2 + 5
    assert ask.count("") == 0
    assert ask.count("<|image_pad|>") == 13, "a control token that is spelled out is text"
    assert ask.version == bench.engine.version


def test_views_are_decoded_once(bench: Bench) -> None:
    asked: list[View] = []

    def counting(video: Video, views: Sequence[View]) -> list[tuple[Media, np.ndarray]]:
        asked.extend(views)
        return show(video, views)

    gallery = Gallery(VIDEO, counting)
    bench.run(_many(gallery))
    assert sorted(v.frame for v in asked) == [0, 1, 2]


async def _many(gallery: Gallery) -> None:
    views = [View(i, 28, 28) for i in (0, 1, 2, 0)]
    await asyncio.gather(*(gallery.show(views) for _ in range(5)))


def changed(policy: torch.nn.Module, part: str, seed: int) -> torch.nn.Module:
    """A copy of the policy, with noise on the parameters whose name has `part` in it."""
    import copy

    other = copy.deepcopy(policy)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if part in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return other


def test_new_weights_equal_transformers(bench: Bench) -> None:
    for seed in (1, 2):
        version = bench.engine.version
        bench.update(changed(bench.policy, "", seed))
        played = bench.run(dialogues(bench.engine, 3))
        assert max(bench.gap(turns, gallery) for turns, gallery in played) < EXACT
        assert {t.version for turns, _ in played for t in turns} == {version + 1}


def test_no_embedding_of_the_old_vision_tower_survives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same image before and after the vision tower changed.

    Without the encoder cache's reset it is wrong.
    """

    async def once() -> tuple[list[Turn], Gallery]:
        gallery = Gallery(VIDEO, show)
        ask = bench.engine.ask(gallery, ("vision",))
        return [await ask([View(5, 112, 112), "What is it?"], max_tokens=8)], gallery

    assert bench.gap(*bench.run(once())) < EXACT
    bench.update(changed(bench.policy, "visual", 3))
    assert bench.gap(*bench.run(once())) < EXACT

    async def nothing() -> None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(bench.engine.llm, "reset_encoder_cache", nothing)
        bench.update(changed(bench.policy, "visual", 4))
        assert bench.gap(*bench.run(once())) > 10 * EXACT, (
            "the encoder cache needs no reset any more?"
        )
    bench.run(bench.engine.forget())
    assert bench.gap(*bench.run(once())) < EXACT


def test_weights_taken_in_flight(bench: Bench) -> None:
    """An answer that is being sampled pauses, goes on with the new weights.

    And carries the version it began with.
    """
    take_in_flight(bench, changed(bench.policy, "", 5))


def take_in_flight(bench: Bench, new: torch.nn.Module) -> None:
    """Give the engine a policy in the middle of two long answers, and look at their tokens."""
    engine = bench.engine
    few = engine.ban
    version = engine.version
    old = bench.policy
    weights = bench.written(new)

    async def long_answer(key: int) -> tuple[list[Turn], Gallery]:
        gallery = Gallery(VIDEO, show)
        return [
            await engine.ask(gallery, ("long", key))([View(7, 84, 84), "Go on."], max_tokens=500)
        ], gallery

    async def scene() -> list[tuple[list[Turn], Gallery]]:
        began = time.monotonic()
        await long_answer(0)
        whole = time.monotonic() - began
        # The first answer is the slowest, on a busy machine by far.
        for share in (0.5, 0.3, 0.2, 0.1):
            tasks = [asyncio.create_task(long_answer(key)) for key in (1, 2)]
            await asyncio.sleep(share * whole)
            if not any(task.done() for task in tasks):
                break
        await take(engine, weights)
        return [await task for task in tasks]

    # Without the end-of-turn token.
    engine.ban = {"allowed_token_ids": [*range(60, 72)]}
    for turns, gallery in bench.run(scene()):
        assert turns[0].version == version
        assert len(turns[0].completion_ids) == 500
        bench.policy = old
        of_old_N = bench.gaps(turns, gallery)
        bench.policy = new
        of_new_N = bench.gaps(turns, gallery)
        assert of_old_N[:5].max() < EXACT
        assert of_new_N[-5:].max() < EXACT
        assert of_new_N[:5].max() > EXACT, "the first tokens were not sampled by the old weights"
        assert of_old_N[-5:].max() > EXACT, "the last tokens were not sampled by the new ones"
    engine.ban = few
    assert engine.version == version + 1


async def take(engine: Engine, weights: WeightVersion) -> None:
    """Give an engine a version, as a rollout actor does."""
    assert weights.place is not None
    held = hold(weights.place)
    assert held is not None
    tensors = (weights.names, weights.dtypes, weights.shapes, weights.checksums)
    try:
        await engine.take(weights.version, *tensors, held.place.path)
    finally:
        held.close()


def open_files() -> list[str]:
    """Return what the system lists as this process's open files."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        # The one that lists them is closed by now.
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(link))
    return found


def test_damaged_weights_are_refused_and_the_old_stay(bench: Bench) -> None:
    weights = bench.written(changed(bench.policy, "", 6))
    before = [file for file in open_files() if SHARED_NAME in file]
    version = bench.engine.version
    assert bench.writer.newest is not None
    bench.writer.newest.file.data[-100] ^= 1
    message = f"weights: tensor '{weights.names[-1]}' is damaged in the engine of pid {os.getpid()}"
    with pytest.raises(ValueError, match=message):
        bench.run(take(bench.engine, weights))
    assert bench.engine.version == version
    assert [file for file in open_files() if SHARED_NAME in file] == before
    played = bench.run(dialogues(bench.engine, 2))
    assert max(bench.gap(turns, gallery) for turns, gallery in played) < EXACT

    # The next good version is taken.
    bench.update(changed(bench.policy, "", 7))
    played = bench.run(dialogues(bench.engine, 2))
    assert max(bench.gap(turns, gallery) for turns, gallery in played) < EXACT


def test_only_what_changed_is_loaded(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    """One projection of a packed layer, then nothing at all: other layers keep their weights."""
    for part in ("layers.0.self_attn.k_proj", "no such layer", "visual"):
        bench.update(changed(bench.policy, part, 8))
        played = bench.run(dialogues(bench.engine, 2))
        assert max(bench.gap(turns, gallery) for turns, gallery in played) < EXACT
    assert "Failed to load weights" not in capfd.readouterr().out


def test_many_long_seeded_prompts_at_once(bench: Bench) -> None:
    """More tokens than one engine step takes by default.

    A prompt cut into chunks would kill the engine on CPU.
    """

    async def ask_all() -> list[Turn]:
        answers = []
        for i in range(24):
            ask = bench.engine.ask(Gallery(VIDEO, show), ("many", i))
            numbers = [str((7 * i + j) % 100) for j in range(450)]
            answers.append(ask([" ".join(numbers)], max_tokens=2))
        return list(await asyncio.gather(*answers))

    turns = bench.run(ask_all())
    assert sum(len(turn.prompt_ids) for turn in turns[:16]) > 8192
    assert all(turn.completion_ids for turn in turns)
    assert not bench.engine.dead
