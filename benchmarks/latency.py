"""Latency of random students: what `surgery search` predicts from one measurement of each kind of edit, and what is so.

Usage: python benchmarks/latency.py [--cpu-time] [--json] [--save] [SIZE ...]

Of each of DiT, PixArt and SD3 at three sizes (random weights), ten students with random edits of rules of the library are
predicted and measured. --cpu-time counts the processor's time instead of the clock's, for a machine that does other work.
The last line with --json is {"MODEL SIZE": [{"edits": ..., "predicted": ms, "measured": ms, "error": share}, ...]}.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from machine import machine, save

import surgery
from surgery.errors import MatchError
from surgery.evaluate.metrics.latency import latencies_ms
from surgery.graph import ModelGraph
from surgery.models.inputs import example_inputs
from surgery.operators import GatedMLP, HyenaX, LinearAttention, SlidingWindow
from surgery.rewriting import Rule, all_layers
from surgery.rewriting.commit import commit
from surgery.rules import drop_blocks, mlp_ratio, parallel_pairs, replace_attention, replace_mlp
from surgery.search.candidates import Candidate, exclusions, find_candidates
from surgery.search.latency import Latencies

STUDENTS = 10
RULES: tuple[Rule, ...] = (
    replace_attention(HyenaX(kernel=4)),
    replace_attention(SlidingWindow(window=33)),
    replace_attention(LinearAttention()),
    mlp_ratio(2),
    mlp_ratio(6),
    replace_mlp(GatedMLP(ratio=2), inherit="random"),
    parallel_pairs(),
    drop_blocks(layers=all_layers()),
)
SIZES: dict[str, dict[str, Any]] = {
    "small": {"num_attention_heads": 4, "attention_head_dim": 48, "num_layers": 6, "sample_size": 16},
    "medium": {"num_attention_heads": 6, "attention_head_dim": 64, "num_layers": 6, "sample_size": 32},
    "large": {"num_attention_heads": 8, "attention_head_dim": 72, "num_layers": 6, "sample_size": 48},
}
"""64, 256 and 576 tokens of width 192, 384 and 576."""
MODELS: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "DiT": ("DiTTransformer2DModel", lambda _: {"in_channels": 4, "out_channels": 8, "patch_size": 2}),
    "PixArt": (
        "PixArtTransformer2DModel",
        lambda width: {
            "in_channels": 4, "out_channels": 8, "patch_size": 2, "cross_attention_dim": width, "caption_channels": 128,
        },
    ),
    "SD3": (
        "SD3Transformer2DModel",
        lambda width: {
            "in_channels": 4, "out_channels": 4, "patch_size": 2, "joint_attention_dim": 128,
            "pooled_projection_dim": 128, "caption_projection_dim": width,
        },
    ),
}  # fmt: skip


def traced(name: str, size: str) -> tuple[ModelGraph, dict[str, Any]]:
    """A model with random weights, and inputs for one sample."""
    import diffusers

    class_name, more = MODELS[name]
    width = SIZES[size]["num_attention_heads"] * SIZES[size]["attention_head_dim"]
    model = getattr(diffusers, class_name)(**SIZES[size], **more(width)).eval()
    inputs = example_inputs(model)
    return surgery.trace(model, inputs), inputs


def fitting(graph: ModelGraph) -> list[Candidate]:
    """The candidates of all rules that apply somewhere."""
    return find_candidates(graph, [rule for rule in RULES if _applies(graph, rule)])


def _applies(graph: ModelGraph, rule: Rule) -> bool:
    try:
        surgery.plan(graph, [rule])
    except MatchError:
        return False
    return True


def drawn(candidates: list[Candidate], seed: int) -> list[Candidate]:
    """Some candidates that do not exclude each other: on average, half of the layers are edited."""
    draw, apart = random.Random(seed), set(exclusions(candidates))
    chosen: list[int] = []
    for n in draw.sample(range(len(candidates)), len(candidates)):
        free = not any((min(m, n), max(m, n)) in apart for m in chosen)
        if free and draw.random() < 0.25:
            chosen.append(n)
    return [candidates[n] for n in sorted(chosen)] or candidates[:1]


def students(
    graph: ModelGraph, inputs: dict[str, Any], count: int, clock: Callable[[], float]
) -> Iterator[dict[str, Any]]:
    """Random students, predicted and measured."""
    candidates = fitting(graph)
    latencies = Latencies(graph, inputs, clock=clock)
    shares = [change / latencies.teacher for change in latencies.changes(candidates)]
    numbers = {candidate.key: n for n, candidate in enumerate(candidates)}
    for seed in range(count):
        chosen = drawn(candidates, seed)
        edits = [edit for candidate in chosen for edit in candidate.edits]
        # The teacher again each time: what a machine gives varies from minute to minute.
        teacher, student = latencies_ms([graph.model, commit(graph, edits)], inputs, clock=clock)
        predicted = teacher * (1 + sum(shares[numbers[candidate.key]] for candidate in chosen))
        yield {
            "edits": [candidate.words for candidate in chosen],
            "teacher": teacher,
            "predicted": predicted,
            "measured": student,
            "error": predicted / student - 1,
        }


def main() -> None:
    clock = time.process_time if "--cpu-time" in sys.argv else time.perf_counter
    torch.manual_seed(0)
    figures: dict[str, list[dict[str, Any]]] = {}
    sizes = [size for size in SIZES if size in sys.argv] or list(SIZES)
    for name in MODELS:
        for size in sizes:
            graph, inputs = traced(name, size)
            rows = figures[f"{name} {size}"] = list(students(graph, inputs, STUDENTS, clock))
            errors = [abs(row["error"]) for row in rows]
            print(f"{name:8} {size:7} teacher {rows[0]['teacher']:8.2f} ms, students "
                  f"{min(r['measured'] for r in rows):.2f} to {max(r['measured'] for r in rows):.2f} ms, error "
                  f"{100 * statistics.median(errors):.1f} % in the median, {100 * max(errors):.1f} % at most",
                  file=sys.stderr)  # fmt: skip
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if "--save" in sys.argv:
        print(save("latency", figures))
    if "--json" in sys.argv:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
