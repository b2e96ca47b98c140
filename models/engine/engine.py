"""The policy behind `ask`: one vLLM engine, and the dialogues that are held with it.

Token in is token out: a dialogue goes on from the ids that were sampled, never from their text tokenised again, and
what the engine says it saw is compared with what the learner will be shown. The same on CPU and GPU; what differs is
in `engine_args`. This file knows no system, no reward and no Ray.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from core.types import Ask, Media, MediaTable, Turn, Video, View
from models.dialogue import Dialogue, allowed_ids
from models.engine import weight_transfer

Show = Callable[
    [Video, Sequence[View]], Sequence[tuple[Media, np.ndarray]]
]  # `data.frames.frames.show`
Key = tuple[int | str, ...]  # names an episode

SMALL_VOCABULARY = (
    8192  # up to here the allowed ids travel with a request; above, the few banned ones
)
BANNED_BIAS = -1e9  # on a logit: its probability is exactly 0 in float32
# Processed images that vLLM keeps on a CPU: those of the prompts of a step, which a group asks for again. Its own 4 GiB
# fill with frames of past steps, in memory that a laptop needs.
PROCESSED_GIB = 0.5
# Who reads frames: not the event loop, which others wait for, and no more at a time than there are cores, so that the
# first group's are there soon and the engine has something to begin with.
READERS = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "frames")


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is started with."""

    path: str  # Hugging Face folder of the policy
    device: str = "cpu"  # cpu | cuda
    dtype: str = "float32"
    max_model_len: int = 2048  # tokens of a whole dialogue
    max_num_seqs: int = 64  # requests decoded together
    max_images: int = 64  # of a whole dialogue
    kv_cache_bytes: int = 256 << 20  # CPU only
    gpu_memory_utilization: float = 0.6  # GPU only
    tensor_parallel: int = 1  # GPU only
    weight_backend: str = weight_transfer.BACKEND  # object_store | nccl | ipc
    seed: int = 0


def engine_args(settings: EngineSettings) -> dict[str, Any]:
    """Arguments of vLLM's `AsyncEngineArgs`: all that differs between CPU and GPU is here."""
    from vllm.config import WeightTransferConfig

    shared = {
        "model": settings.path,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "limit_mm_per_prompt": {"image": settings.max_images, "video": 0},
        "enable_prefix_caching": True,  # the episodes of a group share their prompt, a second turn its first
        "logprobs_mode": "processed_logprobs",  # of the distribution that was sampled from: temperature and bans included
        "generation_config": "vllm",  # else the folder's generation_config.json would set top_k and penalties
        "disable_log_stats": True,
        "seed": settings.seed,
        "weight_transfer_config": WeightTransferConfig(backend=settings.weight_backend),
    }
    if settings.device == "cpu":
        # 32 is the CPU attention's block; the environment variable for the cache counts in whole GiB only.
        # No prompt may be cut into chunks: after a cut vLLM 0.32 turns the request's random generator back, which CPU
        # generators cannot do ("CPU Generator does not use offset"), and the engine dies.
        return shared | {
            "enforce_eager": True,
            "block_size": 32,
            "kv_cache_memory_bytes": settings.kv_cache_bytes,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": settings.max_num_seqs * settings.max_model_len,
            "mm_processor_cache_gb": PROCESSED_GIB,
        }
    return shared | {
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel,
    }


def seed_of(*key: int | str) -> int:
    """A sampling seed (63 bits) from what names a turn: run seed, step, sample, episode, turn."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Gallery:
    """The images shown in the dialogues about one video: each view is decoded once, whoever asks for it."""

    def __init__(self, video: Video, show: Show) -> None:
        self.video = video
        self.pixels: MediaTable = {}
        self.images: dict[str, Image.Image] = {}  # the same by digest, as the engine takes them
        self._show = show
        self._media: dict[View, Media] = {}
        self._lock = asyncio.Lock()

    async def show(self, views: Sequence[View]) -> tuple[Media, ...]:
        async with self._lock:
            missing = [view for view in dict.fromkeys(views) if view not in self._media]
            if missing:
                shown = await asyncio.get_running_loop().run_in_executor(
                    READERS, self._show, self.video, missing
                )
                for view, (media, pixels) in zip(missing, shown, strict=True):
                    self._media[view] = media
                    self.pixels[media.digest] = pixels
                    self.images[media.digest] = Image.fromarray(pixels)
        return tuple(self._media[view] for view in views)


class Engine:
    """One vLLM engine. To be made inside a running event loop, and used from that loop only."""

    def __init__(self, settings: EngineSettings) -> None:
        from transformers import AutoTokenizer
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        weight_transfer.register()
        if settings.weight_backend == "ipc":
            os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = (
                "1"  # handles travel pickled, from our own learner
            )
        self.settings = settings
        self.version = 0
        self.llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_args(settings)))
        vision = self.llm.model_config.hf_config.vision_config
        cell = vision.patch_size * vision.spatial_merge_size
        self.dialogue = Dialogue(AutoTokenizer.from_pretrained(settings.path), cell)
        vocabulary = self.llm.model_config.get_vocab_size()
        self.ban = ban(allowed_ids(self.dialogue.tokenizer), vocabulary)
        self._numbers = itertools.count()

    @property
    def dead(self) -> bool:
        """Its process is gone: nothing can be asked any more."""
        return bool(self.llm.errored)

    def ask(
        self,
        gallery: Gallery,
        key: Key,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        system: str = "",
    ) -> Ask:
        """Opens a dialogue about a video.

        Args:
            gallery: of its video; dialogues about the same video share it.
            key: names this episode: equal keys, weights and temperatures give equal answers.
            temperature: 0 is greedy.
        """
        return Conversation(self, gallery, key, temperature, top_p, system)

    async def generate(
        self, prompt_ids: list[int], images: list[Image.Image], digests: list[str], **sampling: Any
    ) -> tuple[list[int], list[int], list[float]]:
        """One request.

        Args:
            prompt_ids: with one placeholder for each image.
            images: in the order of their placeholders.
            digests: of the images; equal digests must mean equal pixels, they are the keys of vLLM's caches.
            sampling: of vLLM's `SamplingParams`.

        Returns:
            the prompt as the model saw it, the sampled ids, and their log-probs.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt: dict[str, Any] = {"prompt_token_ids": prompt_ids}
        if images:
            prompt["multi_modal_data"] = {"image": images}
            prompt["multi_modal_uuids"] = {"image": digests}
        params = SamplingParams(
            logprobs=0,  # of the sampled token alone
            stop_token_ids=[self.dialogue.end_id],
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **self.ban,
            **sampling,
        )
        async for last in self.llm.generate(prompt, params, request_id=str(next(self._numbers))):
            output = last
        said = output.outputs[0]
        logprobs = [
            position[token].logprob
            for position, token in zip(said.logprobs, said.token_ids, strict=True)
        ]
        return list(output.prompt_token_ids), list(said.token_ids), logprobs

    async def take(
        self,
        version: int,
        names: Sequence[str],
        dtypes: Sequence[str],
        shapes: Sequence[Sequence[int]],
        checksum: str = "",
        payload: Any = None,
    ) -> None:
        """Takes new weights; requests in flight pause and go on with them. nccl and ipc: not yet run on a GPU.

        Args:
            payload: object_store: the flat uint8 array (`core.flat`); nccl: None, they are received; ipc: an
                asynchronous iterator of messages (`models.engine.weight_senders`), each asked for when the last is loaded.

        Raises:
            ValueError, or vLLM's error around it: the checksum is wrong; the old weights stay.
        """
        if self.settings.weight_backend == "ipc":
            await self._load(payload)
            self.version = version
            return
        extra: dict[str, Any] = {}
        if self.settings.weight_backend == weight_transfer.BACKEND:
            # By way of a file: arrays inside the arguments of a remote call would arrive as lists.
            path = await asyncio.to_thread(weight_transfer.write_shared, payload)
            extra = {"path": path, "checksum": checksum}
        info = weight_transfer.update_info(
            self.settings.weight_backend,
            list(names),
            list(dtypes),
            [list(shape) for shape in shapes],
            extra,
        )
        try:
            await self._load(only(info))
            self.version = version
        finally:
            if "path" in extra:
                os.unlink(extra["path"])

    async def init_transfer(self, info: dict[str, Any]) -> None:
        """Joins the process group of the nccl backend, or agrees on the wire format of ipc; else not needed."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        await self.llm.init_weight_transfer_engine(WeightTransferInitRequest(info))

    async def _load(self, infos: AsyncIterator[dict[str, Any]]) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        await self.llm.pause_generation(mode="keep", clear_cache=False)
        try:
            await self.llm.start_weight_update()
            async for info in infos:
                await self.llm.update_weights(WeightTransferUpdateRequest(info))
            await self.llm.finish_weight_update()
            await self.forget()
        finally:
            await self.llm.resume_generation()

    async def forget(self) -> None:
        """Drops all that was computed with the old weights."""
        await (
            self.llm.reset_encoder_cache()
        )  # image embeddings: the prefix cache's reset does not reach them
        done = await self.llm.reset_prefix_cache(reset_running_requests=True)
        assert done, "vLLM did not reset its prefix cache"

    def close(self) -> None:
        self.llm.shutdown()
        self.llm.shutdown = lambda: (
            None
        )  # its finaliser calls it again, and fails when the interpreter is ending


async def only(info: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield info


def ban(allowed: list[int], vocabulary: int) -> dict[str, Any]:
    """Sampling arguments that keep every id but the allowed ones from being sampled.

    A list of 150,000 allowed ids in each request would cost more than the request, so a big vocabulary names the few
    hundred banned ones.
    """
    if vocabulary <= SMALL_VOCABULARY:
        return {"allowed_token_ids": allowed}
    return {"logit_bias": dict.fromkeys(sorted(set(range(vocabulary)) - set(allowed)), BANNED_BIAS)}


class Conversation:
    """One episode's dialogue (`core.types.Ask`)."""

    def __init__(
        self,
        engine: Engine,
        gallery: Gallery,
        key: Key,
        temperature: float,
        top_p: float,
        system: str,
    ) -> None:
        self.engine = engine
        self.gallery = gallery
        self.key = key
        self.temperature = temperature
        self.top_p = top_p
        self.system = system
        self.turns = 0
        self.auxiliaries = 0
        self.open = True  # False after a completion that did not end
        self.short: list[int] = []  # all ids so far, one placeholder for each image
        self.long: list[int] = []  # the same as the model sees it
        self.media: list[Media] = []

    @property
    def version(self) -> int:
        return self.engine.version

    def count(self, text: str) -> int:
        return len(self.engine.dialogue.text(text))

    def id_of(self, token: str) -> int | None:
        """Of a text that is one token of the policy's, such as [SEG]; None for any other."""
        ids = self.engine.dialogue.text(token)
        return ids[0] if len(ids) == 1 else None

    async def auxiliary(
        self, content: Sequence[str | View], *, max_tokens: int, temperature: float, top_p: float
    ) -> Turn:
        """As `core.types.Ask`. Answers are seeded by the order of the calls, not by when each is answered."""
        # The word is part of the sampling seed: another one would sample other answers.
        key = (*self.key, "aside", self.auxiliaries)
        # Counted before anything is awaited: calls that run at the same time must differ, and repeat.
        self.auxiliaries += 1
        alone = Conversation(self.engine, self.gallery, key, temperature, top_p, self.system)
        return await alone(content, max_tokens=max_tokens, trainable=False)

    async def __call__(
        self, content: Sequence[str | View], *, max_tokens: int, trainable: bool = True
    ) -> Turn:
        """Says `content` and returns the answer. Raises RuntimeError after an answer that was cut off."""
        if not self.open:
            raise RuntimeError(
                f"episode {self.key}: the last answer was cut off by max_tokens, nothing can follow it"
            )
        engine = self.engine
        first = self.turns == 0
        media = await self.gallery.show([piece for piece in content if isinstance(piece, View)])
        system = self.system if first else ""
        prompt = engine.dialogue.user(content, first=first, expanded=True, system=system)
        self.short += engine.dialogue.user(content, first=first, expanded=False, system=system)
        self.long += prompt
        self.media += media
        version = engine.version
        seen, said, logprobs = await engine.generate(
            self.short,
            [self.gallery.images[m.digest] for m in self.media],
            [m.digest for m in self.media],
            seed=seed_of(*self.key, self.turns),
            max_tokens=max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
        )
        assert seen == self.long, (
            f"episode {self.key}: the engine saw {len(seen)} tokens, we count {len(self.long)}"
        )
        self.open = bool(said) and said[-1] == engine.dialogue.end_id
        self.turns += 1
        self.short += said
        self.long += said
        text = engine.dialogue.decode(said)
        return Turn(
            tuple(prompt), tuple(said), tuple(logprobs), text, media, self.open, version, trainable
        )
