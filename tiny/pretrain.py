"""Make the foundation of the embedded default from nothing: minutes on a GPU, hours on a CPU.

    python -m tiny.pretrain --out DIR --minutes 9 --workers 13 [--family qwen3_vl] [--init DIR]

A qwen2_5_vl learns dialogues that choose a frame and draw a box. A qwen3_vl learns searches that
choose a part of the video and a keyframe and end in [SEG].

Needs torch, transformers, numpy and OpenCV, but not Ray, vLLM or DeepSpeed. `--out` becomes a
Hugging Face folder (bf16). Beside it DIR.state.pt holds fp32 weights and pretraining heads, from
which `--init DIR` goes on. `--minutes` is the time from the start of the process to its end,
including saving and the final examination. On a CPU it is the time that the main thread computed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any

# Tokenizers must not start threads before the lesson workers are forked.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from core.files import replacing
from tiny.school import exam, search_exam, training
from tiny.school.batched import Batched
from tiny.school.batched_qwen3 import batched_policy
from tiny.school.facts import Heads, Tensors
from tiny.school.lessons import Teacher
from tiny.school.losses import Tutor
from tiny.school.search_lessons import SearchTeacher
from tiny.school.search_losses import SearchTutor
from tiny.school.sizes import QWEN3, SIZES, sizes_of
from tiny.school.workers import CHUNK, LessonWorkers

# Share of the time in which images and single boxes alone are taught.
SHOWING = 0.18
# A seed of no lesson: those come from SeedSequence([seed, worker]).
EXAM_SEED = 990_017
# Share of the learning rate at the end.
LOWEST = 0.01


def main() -> None:
    options = _options()
    out = Path(options.out)
    init = Path(options.init) if options.init else _new_folder(out, options.family)
    tokenizer = AutoTokenizer.from_pretrained(init)
    search = sizes_of(AutoConfig.from_pretrained(init)) is QWEN3
    teacher = SearchTeacher(tokenizer) if search else Teacher(tokenizer)
    slots = 3 * options.chunks + options.workers
    workers = LessonWorkers(teacher, options.seed, options.workers, slots)
    try:
        _train(options, out, init, teacher, workers)
    finally:
        workers.close()


def _options() -> argparse.Namespace:
    parser = training.training_parser(__doc__, minutes=9.0, lr=2e-3)
    parser.add_argument(
        "--init", default="", help="Hugging Face folder to start from; default: a new random one"
    )
    parser.add_argument(
        "--family", choices=SIZES, default="qwen2_5_vl", help="model type of a new one"
    )
    parser.add_argument("--workers", type=int, default=13)
    parser.add_argument(
        "--chunks", type=int, default=8, help=f"lesson chunks of {CHUNK} scenes in a step"
    )
    parser.add_argument(
        "--showing",
        type=float,
        help="share of the time in which images and single boxes alone are taught; "
        f"default {SHOWING}, with --init 0",
    )
    parser.add_argument("--warm_steps", type=int, default=200)
    parser.add_argument(
        "--reserve", type=float, default=30.0, help="seconds kept for saving and the examination"
    )
    parser.add_argument("--save_seconds", type=float, default=110.0)
    parser.add_argument("--exam", type=int, default=1024, help="questions of the final examination")
    return parser.parse_args()


def _new_folder(out: Path, family: str) -> Path:
    # Imported here: with --init neither torchvision nor an image processor is needed.
    from tiny.school.build import build
    from tiny.world.queries import sentences

    folder = out.with_name(out.name + ".random")
    build(folder, sentences(), sizes=SIZES[family])
    return folder


def _train(
    options: argparse.Namespace,
    out: Path,
    init: Path,
    teacher: Teacher,
    workers: LessonWorkers,
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        # The other cores are the lesson workers'.
        torch.set_num_threads(2)

    hf = AutoModelForImageTextToText.from_pretrained(init, dtype=torch.float32)
    search = isinstance(teacher, SearchTeacher)
    heads = Heads(hf.config.text_config.hidden_size, search)
    resumed = _restore(init, hf, heads)
    net = batched_policy(hf).to(device)
    tutor_type = SearchTutor if search else Tutor
    tutor = tutor_type(net, heads.to(device), teacher, device)
    optimizer = _optimizer(net, heads, options.lr)
    batches = Batches(workers, options.chunks, device)

    showing = options.showing
    if showing is None:
        showing = 0.0 if resumed else SHOWING
    begin = training.clock()
    training.log(
        {
            "start_up_s": begin - training.STARTED,
            "device": str(device),
            "resumed": resumed,
            "parameters": sum(p.numel() for p in hf.parameters()),
        }
    )

    def losses(share: float) -> Tensors:
        return tutor.losses(batches.take(), dialogues=share >= showing)

    def figures(steps: int, seconds: float) -> dict[str, float]:
        scenes = steps * options.chunks * CHUNK
        return {"scenes_per_s": scenes / seconds, "waited_s": batches.take_waited()}

    parameters = [*net.parameters(), *heads.parameters()]
    run = training.Training(options, optimizer, parameters, LOWEST, device)
    end = training.STARTED + options.minutes * 60 - options.reserve
    run.run(end, losses, lambda: _save(out, init, hf, heads), figures)
    _save(out, init, hf, heads)
    training.log({"trained_steps": run.step, "trained_s": training.clock() - begin})
    _final_exam(out, hf, tutor, teacher, options.exam)


class Batches:
    """Lessons on the device. A thread copies the next ones while the model works."""

    def __init__(self, workers: LessonWorkers, chunks: int, device: torch.device) -> None:
        self.workers = workers
        self.chunks = chunks
        self.device = device
        # Seconds in which the model waited for lessons.
        self.waited = 0.0
        self._ready: Queue[Any] = Queue(maxsize=2)
        threading.Thread(target=self._fetch, daemon=True).start()

    def _fetch(self) -> None:
        try:
            # On a GPU the thread copies on a stream of its own.
            stream = torch.cuda.Stream() if self.device.type == "cuda" else None
            while True:
                with torch.cuda.stream(stream):
                    chunks = [self._chunk() for _ in range(self.chunks)]
                    lesson = {}
                    for name in chunks[0]:
                        lesson[name] = torch.cat([chunk[name] for chunk in chunks])
                if stream:
                    stream.synchronize()
                self._ready.put(lesson)
        except BaseException as error:
            self._ready.put(error)

    def _chunk(self) -> Tensors:
        slot = self.workers.take()
        copied = {}
        for name, array in self.workers.slots[slot].items():
            copied[name] = torch.from_numpy(array).to(self.device, copy=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        self.workers.free(slot)
        return copied

    def take(self) -> Tensors:
        """Return the next batch of lessons; raise the error of a worker."""
        begin = time.monotonic()
        lesson = self._ready.get()
        self.waited += time.monotonic() - begin
        if isinstance(lesson, BaseException):
            raise lesson
        if self.device.type == "cuda":
            for tensor in lesson.values():
                tensor.record_stream(torch.cuda.current_stream())
        return lesson

    def take_waited(self) -> float:
        """Return the seconds waited since the last call."""
        waited = self.waited
        self.waited = 0.0
        return waited


def _optimizer(net: Batched, heads: Heads, rate: float) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on matrices only, the embedding excepted."""
    embedding = net.decoder.embed_tokens.weight
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    # `net` shares parameters with the module it wraps.
    unique = {id(p): p for p in [*net.parameters(), *heads.parameters()]}
    for parameter in unique.values():
        if parameter.ndim >= 2 and parameter is not embedding:
            matrices.append(parameter)
        else:
            others.append(parameter)
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def _state_file(folder: Path) -> Path:
    return folder.with_name(folder.name + ".state.pt")


def _restore(init: Path, hf: torch.nn.Module, heads: Heads) -> bool:
    """Load fp32 weights and heads of an earlier pretraining; return False if it left none."""
    state = _state_file(init)
    if not state.exists():
        return False

    held = torch.load(state, map_location="cpu", weights_only=True)
    hf.load_state_dict(held["model"])
    heads.load_state_dict(held["heads"], strict=False)
    return True


def _save(out: Path, init: Path, hf: Any, heads: Heads) -> None:
    training.save_policy(out, init, hf)
    with replacing(_state_file(out)) as fresh:
        torch.save({"model": hf.state_dict(), "heads": heads.state_dict()}, fresh)


def _final_exam(out: Path, hf: Any, tutor: Tutor, teacher: Teacher, count: int) -> None:
    """Examine the weights as shipped, rounded to bf16, in fp32 arithmetic."""
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.copy_(parameter.bfloat16().float())

    asked = exam.questions(EXAM_SEED, count)
    results = {}
    for label, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        if isinstance(tutor, SearchTutor) and isinstance(teacher, SearchTeacher):
            results[label] = search_exam.examine(tutor, teacher, asked, temperature)
        else:
            results[label] = exam.examine(tutor, teacher, asked, temperature)
        for kind, marks in results[label].items():
            figures = " ".join(f"{name} {mark:7.3f}" for name, mark in marks.items())
            print(f"{label:8}{kind:10}{figures}", flush=True)
    out.with_name(out.name + ".exam.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
    sys.stdout.flush()
