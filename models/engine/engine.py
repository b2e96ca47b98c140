"""The policy behind `ask`: one vLLM engine, the same on CPU and GPU.

vLLM is imported where an engine starts: it takes ten seconds, and drivers only name the class.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from multiprocessing import connection
from typing import Any

import numpy as np

from core.collector import without_collector
from core.pulse import tick, working
from core.types import Ask
from models.dialogue import load_dialogue
from models.engine import head_start
from models.engine.conversation import Conversation, SeedKey
from models.engine.gallery import Gallery
from models.engine.settings import ADAPTER_STORE, OBJECT_STORE, EngineSettings, ban, engine_args

# How vLLM's client takes an output from the engine's process.
Receive = Callable[[], Awaitable[Any]]

# Longest wait for the exit code of a process whose pipe is closed already.
EXIT_S = 10.0
# vLLM's message about processes that ended while they started, and the exit code of one that was
# told to: below zero for a signal, zero if it took SIGTERM itself. An error gives 1.
TOLD_TO_END = r"Failed core proc\(s\): \{.*: (-\d+|0)\b"


class Engine:
    """One vLLM engine, made inside a running event loop and used from that loop only."""

    def __init__(self, settings: EngineSettings, figures: Sequence[Any] = ()) -> None:
        """Start vLLM.

        Args:
            figures: classes of vLLM that take its figures (`stat_loggers`).

        Raises:
            ValueError: the policy's family is not supported.
        """
        with without_collector():
            if settings.device == "cpu":
                head_start.begin()
            from vllm import AsyncEngineArgs
            from vllm.v1.engine.async_llm import AsyncLLM

            from models.engine import weight_transfer

        self.dialogue = load_dialogue(settings.path, settings.system_message)
        weight_transfer.register()
        wait_for_exit_codes()
        if settings.weight_backend == "ipc":
            # Memory handles travel pickled, from this run's own learner.
            os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
        self.settings = settings
        self.version = 0
        arguments = AsyncEngineArgs(**engine_args(settings))
        self.llm = AsyncLLM.from_engine_args(arguments, stat_loggers=list(figures))
        core = self.llm.engine_core
        core.get_output_async = _ticking(core.get_output_async)  # type: ignore[method-assign]
        vocabulary = self.llm.model_config.get_vocab_size()
        self.ban = ban(self.dialogue.allowed_ids(), vocabulary)
        # Of every request, so that those in flight go on with a new adapter.
        self.adapter = None if settings.adapter is None else _adapter_request()
        self._request_numbers = itertools.count()

    @property
    def dead(self) -> bool:
        """Whether the engine's process is gone; it answers nothing any more."""
        return bool(self.llm.errored)

    def ask(
        self,
        gallery: Gallery,
        key: SeedKey,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Ask:
        """Open a dialogue about a video.

        Args:
            gallery: images of the video; dialogues about the same video share it.
            key: names this episode; equal keys, weights and temperatures give equal answers.
            temperature: 0 is greedy.
            top_p: nucleus sampling; 1 keeps every token.
        """
        return Conversation(self, gallery, key, temperature, top_p)

    async def generate(
        self,
        prompt_ids: list[int],
        images: list[np.ndarray],
        digests: list[str],
        **sampling: Any,
    ) -> tuple[list[int], list[int], list[float]]:
        """Run one request.

        Args:
            prompt_ids: with one placeholder for each image.
            images: uint8 (height, width, 3) RGB, in the order of their placeholders.
            digests: names of the images and keys of vLLM's caches; equal digests must mean equal
                pixels.
            sampling: arguments of vLLM's `SamplingParams`.

        Returns:
            The prompt as the model saw it, the sampled ids, and their log-probs.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt: dict[str, Any] = {"prompt_token_ids": prompt_ids}
        if images:
            prompt["multi_modal_data"] = {"image": images}
            prompt["multi_modal_uuids"] = {"image": digests}
        params = SamplingParams(
            # Of the sampled token alone.
            logprobs=0,
            stop_token_ids=[self.dialogue.end_id],
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            # Nothing in it changes: a copy of the lists would cost a twentieth of the frontend.
            skip_clone=True,
            **self.ban,
            **sampling,
        )
        request_id = str(next(self._request_numbers))
        with working("generate"):
            outputs = self.llm.generate(
                prompt, params, request_id=request_id, lora_request=self.adapter
            )
            async for last in outputs:
                output = last

        completion = output.outputs[0]
        logprobs = []
        for choices, token in zip(completion.logprobs, completion.token_ids, strict=True):
            logprobs.append(choices[token].logprob)
        return list(output.prompt_token_ids), list(completion.token_ids), logprobs

    async def take(
        self,
        version: int,
        names: Sequence[str],
        dtypes: Sequence[str],
        shapes: Sequence[Sequence[int]],
        checksums: Sequence[str] = (),
        source: Any = None,
    ) -> None:
        """Take new weights; requests in flight pause and go on with them.

        nccl and ipc: not yet run on a GPU.

        Args:
            version: number of the weight version.
            names, dtypes, shapes: description of its tensors, those of an adapter alone with
                `EngineSettings.adapter`.
            checksums: of each tensor (`core.flat.tensor_checksum`); object_store only.
            source: object_store: path of the flat array (`core.flat`), which stays as it is until
                they are taken. nccl: None, the tensors are received. ipc: an asynchronous iterator
                of messages (`models.engine.weight_senders`); each is asked for when the last is
                loaded.

        Raises:
            ValueError: a checksum is wrong; the old weights stay.
        """
        from models.engine import weight_transfer

        backend = self.settings.weight_backend
        if backend == "ipc":
            await self._load(source)
            self.version = version
            return

        extra: dict[str, Any] = {}
        if backend == OBJECT_STORE:
            extra = {"path": source, "checksums": list(checksums), "engine": _whereabouts()}
        adapter = self.settings.adapter
        if adapter is not None:
            backend = ADAPTER_STORE
            extra |= {"rank": adapter.rank, "alpha": adapter.alpha}
        info = weight_transfer.update_info(
            backend,
            list(names),
            list(dtypes),
            [list(shape) for shape in shapes],
            extra,
        )
        try:
            await self._load(_single(info))
        except Exception as error:
            # vLLM brings the text of an error out of its process, not the error.
            damage = re.search(weight_transfer.DAMAGE, str(error))
            if damage is None:
                raise
            raise ValueError(damage.group()) from error
        self.version = version

    async def init_transfer(self, info: dict[str, Any]) -> None:
        """Join the process group of nccl, or agree on the wire format of ipc."""
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
        """Drop caches of the old weights."""
        # Image embeddings: the reset of the prefix cache does not reach them.
        await self.llm.reset_encoder_cache()
        done = await self.llm.reset_prefix_cache(reset_running_requests=True)
        assert done, "vLLM did not reset its prefix cache"

    def close(self) -> None:
        """End the engine's process."""
        self.llm.shutdown()

        # vLLM's finaliser would call it again, and fails while the interpreter is ending.
        def closed_already() -> None:
            return None

        self.llm.shutdown = closed_already


def killed_while_starting(error: Exception) -> bool:
    """Return True if an engine did not start because its process was killed.

    A process that is killed before it has read its arguments breaks their pipe.
    """
    if isinstance(error, BrokenPipeError):
        return True
    return re.search(TOLD_TO_END, str(error)) is not None


@functools.cache
def wait_for_exit_codes() -> None:
    """Let vLLM name the exit codes of processes that ended while they started.

    vLLM 0.32 asks for a code as soon as the pipe of that process is closed. The system may know the
    code a moment later, and the message names none.
    """
    from vllm.v1.engine.utils import CoreEngineProcManager

    name_finished = CoreEngineProcManager.finished_procs

    def wait_and_name(manager: CoreEngineProcManager) -> dict[str, int]:
        for process in manager.processes:
            if process.pid is not None and connection.wait([process.sentinel], timeout=0):
                process.join(EXIT_S)
        return name_finished(manager)

    CoreEngineProcManager.finished_procs = wait_and_name  # type: ignore[method-assign]


def _ticking(receive: Receive) -> Receive:
    """Let every output of the engine's process, one a token step, count as progress."""

    async def receive_and_tick() -> Any:
        outputs = await receive()
        tick()
        return outputs

    return receive_and_tick


def _adapter_request() -> Any:
    """Name the engine's only adapter, which comes from the learner and from no folder."""
    from vllm.lora.request import LoRARequest

    return LoRARequest("learner", 1, "learner")


def _whereabouts() -> str:
    """Name the process of this engine for messages."""
    return f"the engine of pid {os.getpid()} on {socket.gethostname()}"


async def _single(info: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    yield info
