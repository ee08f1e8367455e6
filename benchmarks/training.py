"""What a step of each stage takes, over the same work by hand; and a student's forward, over a swap by hand.

Usage: python benchmarks/training.py [--json] [--save]

A DiT of width 384 in eight blocks, of which four get Hyena-X for their attention. By hand, a step of stage 1 is the
teacher's forward, and each new operator's forward and backward; one of stage 2 is the teacher's forward, and the
student's forward and backward. Ours has hooks, losses, clipping, the optimizer and the average besides. Both are
timed in turns, so whatever else the machine does falls on both; the ratio is that of the medians of processor time, with
one thread.

The last line with --json is
{"distil" | "finetune" | "forward": {"ours": seconds, "by_hand": seconds, "ratio": r}}.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiTTransformer2DModel
from machine import machine, save
from memory import Given
from torch import nn

import surgery
from surgery.models.inputs import example_inputs
from surgery.operators import HyenaX
from surgery.rewriting import every
from surgery.rewriting.commit import record_of
from surgery.rewriting.edit import new_paths
from surgery.rules import replace_attention
from surgery.training.distil import Distil, distil, sites_of
from surgery.training.finetune import Finetune, finetune

ROUNDS = 12
INIT = {
    "num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 8, "in_channels": 4, "out_channels": 8,
    "sample_size": 16, "patch_size": 2,
}  # fmt: skip
BATCH = 16


class InTurns:
    """A progress that runs `by_hand` after each step, and times both; the first of each warms up."""

    def __init__(self, by_hand: Callable[[], object]) -> None:
        self._by_hand = by_hand
        self.ours: list[float] = []
        self.theirs: list[float] = []

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[InTurns]:  # noqa: ARG002
        self._start = time.process_time()
        yield self

    def advance(self, steps: int = 1, *, loss: float | None = None) -> None:  # noqa: ARG002
        self.ours.append(time.process_time() - self._start)
        self.theirs.append(seconds(self._by_hand))
        self._start = time.process_time()

    def figures(self) -> dict[str, float]:
        ours, theirs = (statistics.median(times[1:]) for times in (self.ours, self.theirs))
        return {"ours": ours, "by_hand": theirs, "ratio": ours / theirs}


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def distilled(teacher: nn.Module, student: nn.Module, inputs: dict[str, Any], rounds: int) -> dict[str, float]:
    sites = sites_of(record_of(student).edits, teacher, student)
    paths = [site.lesson.path for site in sites]
    seen: dict[str, tuple[Any, Any, Any]] = {}
    hooks = [
        teacher.get_submodule(path).register_forward_hook(
            lambda _m, args, kwargs, out, path=path: seen.update({path: (args, kwargs, out)}), with_kwargs=True
        )
        for path in paths
    ]
    with torch.no_grad():
        teacher(**inputs)
    for hook in hooks:
        hook.remove()

    def by_hand() -> None:
        with torch.no_grad():
            teacher(**inputs)
        for path, (args, kwargs, out) in seen.items():
            operator = student.get_submodule(path)
            operator.zero_grad()
            F.l1_loss(operator(*args, **kwargs), out).backward()

    turns = InTurns(by_hand)
    config = Distil(steps=rounds, batch_size=BATCH, checkpoint_every=2 * rounds)
    distil(teacher, student, sites, Given(inputs), config, seed=0, progress=turns)
    return turns.figures()


def finetuned(teacher: nn.Module, student: nn.Module, inputs: dict[str, Any], rounds: int) -> dict[str, float]:
    twin = copy.deepcopy(student).requires_grad_(True)

    def by_hand() -> None:
        with torch.no_grad():
            teacher(**inputs)
        twin.zero_grad()
        twin(**inputs).sample.square().mean().backward()

    turns = InTurns(by_hand)
    config = Finetune(steps=rounds, batch_size=BATCH, checkpoint_every=2 * rounds, target="teacher")
    finetune(teacher, student, new_paths(record_of(student).edits), Given(inputs), config, seed=0, progress=turns)
    return turns.figures()


@torch.no_grad()
def forward(teacher: nn.Module, student: nn.Module, inputs: dict[str, Any], rounds: int) -> dict[str, float]:
    twin = copy.deepcopy(teacher)
    for path in new_paths(record_of(student).edits):
        twin.set_submodule(path, copy.deepcopy(student.get_submodule(path)))
    assert torch.equal(twin(**inputs).sample, student(**inputs).sample)
    turns = InTurns(lambda: twin(**inputs))
    with turns.stage("forward", rounds):
        for _ in range(2 * rounds):
            student(**inputs)
            turns.advance()
    return turns.figures()


def measure(init: dict[str, Any], rounds: int) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    teacher = DiTTransformer2DModel(**init).eval()
    inputs = example_inputs(teacher, BATCH)
    student = surgery.rewrite(teacher, [replace_attention(HyenaX(kernel=4), layers=every(2))], inputs).eval()
    parts = {"forward": forward, "distil": distilled, "finetune": finetuned}  # the last one changes inherited weights
    figures = {}
    for name, part in parts.items():
        figures[name] = row = part(teacher, student, inputs, rounds)
        print(f"{name:9} {row['ours']:.3f} s, by hand {row['by_hand']:.3f} s, {row['ratio']:.3f} x", file=sys.stderr)
    return figures


def main() -> None:
    torch.set_num_threads(1)  # processor time of several counts how long they wait for each other
    figures = measure(INIT, ROUNDS)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if "--save" in sys.argv:
        print(save("training", figures))
    if "--json" in sys.argv:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
