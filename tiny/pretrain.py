"""Makes the foundation of the embedded default from nothing: minutes on one GPU, hours on a CPU.

    python -m tiny.pretrain --out DIR --minutes 9 --workers 13 [--family qwen3_vl] [--init DIR]

A qwen2_5_vl learns dialogues that choose a frame and draw a box, a qwen3_vl searches that choose a part of the video
and a keyframe and end in [SEG].

Needs torch, transformers, numpy and OpenCV alone; neither ray nor vLLM nor DeepSpeed. `--out` becomes a Hugging Face
folder (bf16), with fp32 weights and pretraining heads beside it in DIR.state.pt, from which `--init DIR` goes on.
`--minutes` is time from the start of the process to its end, saving and the final examination included. On a CPU it is
time that the main thread computed: who shares the machine with others is taught as much.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from tiny.school.batched import Batched
from tiny.school.batched_qwen3 import batched
from tiny.school.exam import examine, questions
from tiny.school.lessons import Teacher
from tiny.school.losses import Heads, Tensors, Tutor
from tiny.school.search_exam import examine as examine_searches
from tiny.school.search_lessons import SearchTeacher
from tiny.school.search_losses import SearchTutor
from tiny.school.sizes import FAMILIES, QWEN3, family_of
from tiny.school.workers import CHUNK, School

CLOCK = time.monotonic if torch.cuda.is_available() else time.thread_time
STARTED = CLOCK()
SHOWING = 0.18
EXAM_SEED = 990_017  # no lesson's: those come from SeedSequence([seed, worker])


def main() -> None:
    options = _options()
    out = Path(options.out)
    init = Path(options.init) if options.init else _new_folder(out, options.family)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(init)
    search = family_of(AutoConfig.from_pretrained(init)) is QWEN3
    teacher = SearchTeacher(tokenizer) if search else Teacher(tokenizer)
    school = School(
        teacher, options.seed, options.workers, slots=3 * options.chunks + options.workers
    )
    try:
        _train(options, out, init, device, teacher, school)
    finally:
        school.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True)
    parser.add_argument(
        "--init", default="", help="Hugging Face folder to start from; default: a new random one"
    )
    parser.add_argument("--family", choices=FAMILIES, default="qwen2_5_vl", help="of a new one")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--workers", type=int, default=13)
    parser.add_argument(
        "--chunks", type=int, default=8, help=f"lesson chunks of {CHUNK} scenes in a step"
    )
    parser.add_argument("--lr", type=float, default=2e-3)
    alone = f"share of the time in which images and single boxes alone are taught; default {SHOWING}, with --init 0"
    parser.add_argument("--showing", type=float, help=alone)
    parser.add_argument("--warm_steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--reserve", type=float, default=30.0, help="seconds kept for saving and the examination"
    )
    parser.add_argument("--checkpoint_seconds", type=float, default=110.0)
    parser.add_argument("--log_seconds", type=float, default=20.0)
    parser.add_argument("--exam", type=int, default=1024, help="questions of the final examination")
    precision = "of matrix products; fp32 means TF32 on a GPU"
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help=precision)
    return parser.parse_args()


def _new_folder(out: Path, family: str) -> Path:
    # Imported here: with --init neither torchvision nor an image processor is needed.
    from tiny.school.build import build
    from tiny.world.queries import sentences

    folder = out.with_name(out.name + ".random")
    build(folder, sentences(), family=FAMILIES[family])
    return folder


def _train(
    options: argparse.Namespace,
    out: Path,
    init: Path,
    device: torch.device,
    teacher: Teacher,
    school: School,
) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(options.seed)
    if device.type == "cuda":
        torch.set_num_threads(2)  # the other cores are the lesson workers'
    hf = AutoModelForImageTextToText.from_pretrained(init, dtype=torch.float32)
    search = isinstance(teacher, SearchTeacher)
    heads = Heads(hf.config.text_config.hidden_size, search)
    resumed = _restore(init, hf, heads)
    net = batched(hf).to(device)
    tutor = (SearchTutor if search else Tutor)(net, heads.to(device), teacher, device)
    optimizer = _optimizer(net, heads, options.lr, device)
    batches = Batches(school, options.chunks, device)
    asked = questions(EXAM_SEED, options.exam)
    showing = options.showing if options.showing is not None else SHOWING * (not resumed)
    begin = CLOCK()
    end = STARTED + options.minutes * 60 - options.reserve
    log(
        {
            "start_up_s": begin - STARTED,
            "device": str(device),
            "resumed": resumed,
            "parameters": _size(hf),
        }
    )
    sums: dict[str, torch.Tensor] = {}
    step = 0
    logged = begin
    saved = begin
    logged_step = 0
    now = begin
    while now < end:
        share = (now - begin) / (end - begin)
        rate = _rate(options, step, share)
        for group in optimizer.param_groups:
            group["lr"] = rate
        lesson = batches.take()
        with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            parts = tutor.losses(lesson, dialogues=share >= showing)
        loss = torch.stack([part for name, part in parts.items() if name[0] != "_"]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([*net.parameters(), *heads.parameters()], 1.0)
        if device.type == "cpu" or step % 50 == 0:
            require_finite(loss, step)
        optimizer.step()
        step += 1
        for name, part in {**parts, "_norm": norm, "_steps": torch.ones_like(norm)}.items():
            sums[name] = sums.get(name, 0) + part.detach()
        if now - logged > options.log_seconds:
            _log_step(
                sums,
                step,
                share,
                rate,
                (step - logged_step) * options.chunks * CHUNK / (now - logged),
                batches,
            )
            sums = {}
            logged = now
            logged_step = step
        if now - saved > options.checkpoint_seconds:
            saved = now
            _save(out, init, hf, heads)
        now = CLOCK()
    _save(out, init, hf, heads)
    log({"trained_steps": step, "trained_s": CLOCK() - begin})
    _final_exam(out, init, hf, tutor, teacher, asked)


class Batches:
    """Lessons on the device. A thread copies the next ones on a stream of its own while the model works."""

    def __init__(self, school: School, chunks: int, device: torch.device) -> None:
        self.school = school
        self.chunks = chunks
        self.device = device
        self.waited = 0.0  # seconds the model stood still for want of lessons
        self._ready: Queue[Any] = Queue(maxsize=2)
        threading.Thread(target=self._fetch, daemon=True).start()

    def _fetch(self) -> None:
        try:
            stream = torch.cuda.Stream() if self.device.type == "cuda" else None
            while True:
                with torch.cuda.stream(stream):
                    parts = [self._chunk() for _ in range(self.chunks)]
                    lesson = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
                if stream:
                    stream.synchronize()
                self._ready.put(lesson)
        except BaseException as error:
            self._ready.put(error)

    def _chunk(self) -> Tensors:
        slot = self.school.take()
        copied = {
            name: torch.from_numpy(array).to(self.device, copy=True)
            for name, array in self.school.slots[slot].items()
        }
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        self.school.free(slot)
        return copied

    def take(self) -> Tensors:
        begin = time.monotonic()
        lesson = self._ready.get()
        self.waited += time.monotonic() - begin
        if isinstance(lesson, BaseException):
            raise lesson
        if self.device.type == "cuda":
            for tensor in lesson.values():
                tensor.record_stream(torch.cuda.current_stream())
        return lesson


def _optimizer(
    net: Batched, heads: Heads, rate: float, device: torch.device
) -> torch.optim.Optimizer:
    named = {id(p): p for p in [*net.parameters(), *heads.parameters()]}
    embedding = net.decoder.embed_tokens.weight
    matrices = [p for p in named.values() if p.ndim >= 2 and p is not embedding]
    others = [p for p in named.values() if p.ndim < 2 or p is embedding]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def _rate(options: argparse.Namespace, step: int, share: float) -> float:
    cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
    return float(options.lr * min(1.0, (step + 1) / options.warm_steps) * cosine)


def _size(hf: torch.nn.Module) -> int:
    return sum(p.numel() for p in hf.parameters())


def require_finite(loss: torch.Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise ValueError(
            f"loss is {float(loss)} at step {step}; lower --lr or use --precision fp32"
        )


def _restore(init: Path, hf: torch.nn.Module, heads: Heads) -> bool:
    state = init.with_name(init.name + ".state.pt")
    if not state.exists():
        return False
    held = torch.load(state, map_location="cpu", weights_only=True)
    hf.load_state_dict(held["model"])
    heads.load_state_dict(held["heads"], strict=False)
    return True


def _save(out: Path, init: Path, hf: Any, heads: Heads) -> None:
    """Each file appears whole or not at all; the folder of a run that is cut short is a usable one."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(init, part, ignore=shutil.ignore_patterns("*.safetensors"))
    copy.deepcopy(hf).to("cpu", torch.bfloat16).save_pretrained(part)
    out.mkdir(parents=True, exist_ok=True)
    for file in part.iterdir():
        file.replace(out / file.name)
    part.rmdir()
    state = out.with_name(out.name + ".state.pt")
    torch.save({"model": hf.state_dict(), "heads": heads.state_dict()}, state.with_suffix(".part"))
    state.with_suffix(".part").replace(state)


def _final_exam(
    out: Path, init: Path, hf: Any, tutor: Tutor, teacher: Teacher, asked: list
) -> None:
    """On the weights as shipped: rounded to bf16, computed in fp32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.copy_(parameter.bfloat16().float())
    results = {}
    for label, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        exam = examine_searches if isinstance(teacher, SearchTeacher) else examine
        results[label] = exam(tutor, teacher, asked, temperature)
        for kind, marks in results[label].items():
            print(
                f"{label:8}{kind:10}"
                + " ".join(f"{name} {mark:7.3f}" for name, mark in marks.items()),
                flush=True,
            )
    out.with_name(out.name + ".exam.json").write_text(json.dumps(results, indent=1))


def _log_step(
    sums: dict[str, torch.Tensor],
    step: int,
    share: float,
    rate: float,
    scenes_per_s: float,
    batches: Batches,
) -> None:
    count = float(sums.pop("_steps"))
    means = {name: float(total) / count for name, total in sums.items()}
    speed = {"scenes_per_s": scenes_per_s, "waited_s": batches.waited}
    batches.waited = 0.0
    log({"step": step, "share": share, "lr": rate, **speed, **means})


def log(line: dict[str, Any]) -> None:
    line = {"t": CLOCK() - STARTED, **line}
    print(
        " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()),
        flush=True,
    )


if __name__ == "__main__":
    main()
    sys.stdout.flush()
