"""A few steps of both stages on samples of a tiny pipeline, and its student at work in it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from surgery.errors import MatchError, RewriteError
from surgery.operators import MLP, LinearAttention, SlidingWindow
from surgery.pipelines import Wiring
from surgery.pipelines.calls import Calls
from surgery.pipelines.drive import attribute_set
from surgery.pipelines.feed import Feed, Recorded
from surgery.pipelines.record import record, sample
from surgery.pipelines.sources import fed_by
from surgery.pipelines.trajectories import TrajectorySamples
from surgery.rewriting.commit import commit
from surgery.rewriting.planning import prove
from surgery.rules import mlp_ratio, replace_attention, replace_mlp
from surgery.store import InMemory
from surgery.store.order import seeded
from surgery.tracing import trace
from surgery.training.distil import Distil, distil, sites_of
from surgery.training.finetune import Finetune, finetune
from surgery.training.recorded import RecordedData
from surgery.training.wired import WiredData

SAMPLES, STEPS = 40, 20
STAGE = {"steps": STEPS, "batch_size": 4, "warmup": 5, "checkpoint_every": 1}
Data = WiredData | RecordedData
RULES = {
    "attention": [replace_attention(SlidingWindow(window=8), inherit="random")],
    "attention, linear": [replace_attention(LinearAttention(), inherit="random")],
    "MLP": [replace_mlp(MLP(ratio=2), inherit="random")],
    "MLP width": [mlp_ratio(2)],
    "cross-attention": [replace_attention(LinearAttention(features="learned"), role="cross_attention")],
}
"""Tried in turn."""


def wired_data(pipeline: Any, wiring: Wiring, call: dict[str, Any]) -> WiredData:
    """Samples of the pipeline itself, each of two steps from noise of its own."""
    made = []
    for number in range(SAMPLES):
        own = {**call, "num_inference_steps": 2, "generator": seeded(0, number)}
        one = sample(pipeline, own, wiring)
        made.append(fed_by(one.latents, one.conditions))
    return WiredData(Feed(Calls(call, (), "", False, 2), (wiring,), InMemory(made)), {})


def recorded_data(pipeline: Any, call: dict[str, Any]) -> RecordedData:
    """The teacher's own forwards, of as many runs."""
    calls = Calls(call, (), "", False, 2)
    samples = TrajectorySamples(SimpleNamespace(pipeline=pipeline), calls, SAMPLES, 0)
    made = InMemory([samples[number] for number in range(len(samples))])
    return RecordedData(Feed(calls, (), made, Recorded(samples.model, samples.forwards, "")), {})


def trained(pipeline: Any, data: Data) -> tuple[str, str, str]:
    """What came of "distilled", "finetuned" and the "student"."""
    teacher = getattr(pipeline, data.feed.model)
    name, student, edits = _rewritten(teacher, data)
    sites, new = sites_of(edits, teacher, student), [path for edit in edits for path in edit.new]
    distilled = distil(teacher, student, sites, data, Distil(**STAGE, lr=1e-2), seed=0)
    finetuned = finetune(teacher, student, new, data, Finetune(**STAGE, lr=1e-3, ema_decay=0.0), seed=0)
    return f"{name}, {len(sites)}: {_fall(distilled)}", _fall(finetuned), _runs(pipeline, data, student)


def _rewritten(teacher: nn.Module, data: Data) -> tuple[str, nn.Module, Sequence[Any]]:
    graph = trace(teacher, data.example(0, "cpu"))
    reason: Exception | None = None
    for name, rules in RULES.items():
        try:
            plan, recordings = prove(graph, rules)
        except (MatchError, RewriteError) as error:
            reason = reason or error
        else:
            return name, commit(graph, plan.edits, 0, recordings), plan.edits
    assert reason is not None
    raise reason


def _fall(records: Sequence[Any]) -> str:
    first, last = (float(record.validation) for record in (records[0], records[-1]))
    return f"{'' if last < first or last == 0 else 'no: '}{first:.3g} to {last:.3g}"


def _runs(pipeline: Any, data: Data, student: nn.Module) -> str:
    call = {**data.feed.calls.call, "num_inference_steps": 2, "generator": seeded(0, "student")}
    with attribute_set(pipeline, data.feed.model, student):
        latents = record(pipeline, call).latents
    return "runs" if bool(torch.isfinite(latents).all()) else "no: its latents are not finite"
