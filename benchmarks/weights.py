"""Weights from learner to engines on one machine, against memcpy and the way of commit 687d048.

    python -m benchmarks.weights [--mb 500 2000] [--engines 1 2] [--rounds 5]

Every round of one run copies the weights once with numpy (memcpy), sends them as now, and as then.
Now is `cluster.weight_writer` in this process, and in each engine's process what a rollout actor
and vLLM do before the model is touched: hold the memory, map it, have every tensor verified by the
first engine. Then is written out below: clone, flatten, SHA-256, a copy into the object store
(without Ray's own cost), a copy into a file of the engine, SHA-256 again. It takes so much memory
that only sizes up to 1 GB travel that way. Loading into the model is the same in both, and not in
these figures.

The smallest weights, in bfloat16, also make steps of AdamW at a learning rate of 1e-6, and travel
as deltas. An engine that takes all versions, one that misses three, and a newcomer end with one
hash.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import argument_parser, spread
from cluster.weight_reader import WeightReader
from cluster.weight_writer import Draft, WeightWriter
from cluster.weights import Stored, WeightVersion
from core.flat import checksum, flatten

State = dict[str, torch.Tensor]

LAYERS = 24
LR = 1e-6
# Largest weights that take the old way.
OLD_BYTES = 1_000_000_000
# Bytes that memcpy is measured on, at most: beyond the caches.
MEMCPY_BYTES = 500_000_000
# Missed versions of the engine that comes seldom.
MISSED = 3


def shapes(megabytes: int) -> Iterator[tuple[str, int]]:
    """Yield names and elements of a policy of so many MB: 24 layers of 7 matrices and 2 norms."""
    elements = megabytes * 1_000_000 // 2
    embedding = elements // 4
    yield "embed", embedding
    width = int(((elements - embedding) / LAYERS / 14.5) ** 0.5)
    for layer in range(LAYERS):
        for part, share in (("q", 1), ("k", 0.25), ("v", 0.25), ("o", 1)):
            yield f"layers.{layer}.{part}", int(width * width * share)
        for part in ("gate", "up", "down"):
            yield f"layers.{layer}.{part}", width * width * 4
        for part in ("norm1", "norm2"):
            yield f"layers.{layer}.{part}", width


def random_state(megabytes: int) -> State:
    """Return random weights in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    state: State = {}
    for name, elements in shapes(megabytes):
        master = torch.randn(elements, generator=generator, dtype=torch.float32)
        state[name] = (0.02 * master).bfloat16()
    return state


def write(writer: WeightWriter, version: int, state: State) -> tuple[Draft, WeightVersion]:
    """Write a version as the learner's first rank does, and hold it as the driver does."""
    dtypes = ("bfloat16",) * len(state)
    draft = writer.draft(tuple(state), dtypes, tuple(tuple(each.shape) for each in state.values()))
    for name, tensor in state.items():
        draft.put(name, tensor)
    return draft, draft.finish(version).kept()


def serve(calls: Connection) -> None:
    """Answer calls in the process of an engine once the weights could be loaded: CPU seconds."""
    from models.engine.weight_transfer import MappedFiles, SharedUpdate, verified

    reader = WeightReader()
    files = MappedFiles()
    while True:
        asked: Any = calls.recv()
        if asked is None:
            return
        began = time.process_time()
        if isinstance(asked, WeightVersion):
            held = reader.open(asked)
            assert held is not None
            sizes = [list(shape) for shape in asked.shapes]
            update = SharedUpdate(
                list(asked.names),
                list(asked.dtypes),
                sizes,
                held.place.path,
                list(asked.checksums),
                "an engine",
            )
            verified(update, asked.names, files)
            held.close()
        else:
            old_way_of_an_engine(*asked)
        calls.send(time.process_time() - began)


def old_way_of_an_engine(path: str, digest: str) -> None:
    """Do what actor and engine did at 687d048 with an array out of the object store."""
    with os.fdopen(os.memfd_create("old"), "wb") as file:
        file.write(np.memmap(path, dtype=np.uint8, mode="r").data)
        file.flush()
        flat = np.memmap(f"/proc/self/fd/{file.fileno()}", dtype=np.uint8, mode="c")
        assert hashlib.sha256(flat.data).hexdigest() == digest


class Engines:
    """Processes of engines, without a model."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.ends: list[Connection] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(theirs,), daemon=True).start()
            self.ends.append(ours)

    def call(self, asked: object) -> float:
        """Give all engines the same call; wait for all. Return the most CPU seconds of one."""
        for end in self.ends:
            end.send(asked)
        return max(float(end.recv()) for end in self.ends)

    def close(self) -> None:
        """End all processes."""
        for end in self.ends:
            end.send(None)


def old_way(state: State, engines: Engines) -> None:
    """Send the weights as at 687d048."""
    cloned = {name: tensor.cpu().clone() for name, tensor in state.items()}
    flat = flatten(cloned)[3]
    digest = hashlib.sha256(flat.data).hexdigest()
    with os.fdopen(os.memfd_create("store"), "wb") as store:
        store.write(flat.data)
        store.flush()
        engines.call((f"/proc/{os.getpid()}/fd/{store.fileno()}", digest))


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def full_sync(state: State, count: int, rounds: int) -> None:
    """Print the figures of full versions to so many engines."""
    size = sum(tensor.nbytes for tensor in state.values())
    engines = Engines(count)
    writer = WeightWriter()
    engines.call(write(writer, 0, state)[1])
    source = np.ones(min(size, MEMCPY_BYTES), dtype=np.uint8)
    target = source.copy()
    writing: list[float] = []
    memcpy: list[float] = []
    now: list[float] = []
    old: list[float] = []
    # CPU seconds of writing, and of the verifying of an engine, relative to those of memcpy.
    cpu: list[tuple[float, float]] = []
    # The second version, too, gets its memory from the kernel.
    for number in range(1, rounds + 2):
        copying_cpu = time.process_time()
        copying = seconds(lambda: np.copyto(target, source)) * size / source.nbytes
        copying_cpu = (time.process_time() - copying_cpu) * size / source.nbytes
        began = time.perf_counter()
        writing_cpu = time.process_time()
        _, version = write(writer, number, state)
        writing_cpu = time.process_time() - writing_cpu
        written = time.perf_counter() - began
        verifying_cpu = engines.call(version)
        whole = time.perf_counter() - began
        if number == 1:
            print(f"    version {number}, into new memory: {size / whole / 1e9:.2f} GB/s")
            continue
        memcpy.append(copying)
        writing.append(written)
        cpu.append((writing_cpu / copying_cpu, verifying_cpu / copying_cpu))
        now.append(whole)
        if size <= OLD_BYTES:
            old.append(seconds(lambda: old_way(state, engines)))

    shares = [copying / whole for copying, whole in zip(memcpy, now, strict=True)]
    print(f"  {count} engines: memcpy {size / statistics.median(memcpy) / 1e9:.1f} GB/s")
    print(f"    now, seconds: {spread(now, '.3f')}, of which writing {spread(writing, '.3f')}")
    print(f"    now, share of memcpy: {spread(shares)}")
    for name, column in zip(("writing", "verifying"), zip(*cpu, strict=True), strict=True):
        print(f"    {name}, CPU seconds of all threads relative to memcpy: {spread(column)}")
    if old:
        gains = [before / whole for before, whole in zip(old, now, strict=True)]
        print(f"    faster than 687d048: {spread(gains, '.1f')} times")
    engines.close()


class Masters:
    """Weights in float32 that learn, one tensor at a time, so that many fit into memory."""

    def __init__(self, state: State) -> None:
        generator = torch.Generator().manual_seed(1)
        self.tensors: State = {}
        for name, tensor in state.items():
            # Between the values of bfloat16, as after many steps.
            noise = torch.rand(tensor.shape, generator=generator) - 0.5
            self.tensors[name] = tensor.float() * (1 + noise / 256)
        self.generator = generator

    def step(self) -> None:
        """Make one step of AdamW with random gradients."""
        for tensor in self.tensors.values():
            tensor.requires_grad_()
            tensor.grad = torch.randn(tensor.shape, generator=self.generator)
            torch.optim.AdamW([tensor], lr=LR).step()
            tensor.grad = None
            tensor.requires_grad_(False)

    def state(self) -> State:
        return {name: tensor.bfloat16() for name, tensor in self.tensors.items()}


def next_stored(draft: Draft, version: WeightVersion, stored: Stored | None) -> Stored:
    """Return a version as it is in the object store; the first one is whole."""
    whole: Any = draft.buffer.file.data
    if stored is None:
        return Stored(whole.copy(), version.digest)
    began = time.perf_counter()
    found = draft.delta(version)
    assert found is not None
    delta, payload = found
    share = payload.nbytes / whole.nbytes
    print(f"    delta: {share:.2%} of the bytes, made in {time.perf_counter() - began:.2f} s")
    array: Any = payload
    return stored.followed_by(replace(delta, payload=array))


def take(reader: WeightReader, version: WeightVersion) -> str:
    """Take a version; return the SHA-256 of its bytes."""
    began = time.perf_counter()
    held = reader.open(version)
    assert held is not None
    print(f"    taken in {time.perf_counter() - began:.2f} s")
    try:
        return checksum(held.data())
    finally:
        held.close()


def by_deltas(state: State) -> None:
    """Print the figures of deltas, and check that everybody ends with the same bytes."""
    masters = Masters(state)
    writer = WeightWriter()
    always = WeightReader(fetch=np.asarray)
    seldom = WeightReader(fetch=np.asarray)
    stored: Stored | None = None
    for number in range(MISSED + 2):
        state = masters.state()
        draft, version = write(writer, number, state)
        stored = next_stored(draft, version, stored)
        version = replace(version, place=None, held=None, stored=stored)
        found = take(always, version)
        if number == 0:
            take(seldom, version)
        masters.step()

    right = hashlib.sha256(flatten(state)[3].data).hexdigest()
    assert found == take(seldom, version) == take(WeightReader(np.asarray), version) == right
    print("    all versions, three missed, newcomer: the hash of the learner's weights")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--mb", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    # As in a rank of the learner on a CPU.
    torch.set_num_threads(1)
    for megabytes in args.mb:
        print(f"{megabytes} MB")
        state = random_state(megabytes)
        for count in args.engines:
            full_sync(state, count, args.rounds)
    print(f"deltas, {min(args.mb)} MB")
    by_deltas(random_state(min(args.mb)))


if __name__ == "__main__":
    main()
