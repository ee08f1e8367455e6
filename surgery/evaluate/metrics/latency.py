"""How long a forward pass takes."""

from __future__ import annotations

import statistics
import time
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from surgery.evaluate.context import Context
from surgery.evaluate.metrics.base import Metric
from surgery.evaluate.results import Better

WARMUP, REPEATS = 3, 15
"""Passes before those that are timed, and these: the median of 15 leaves out what else the machine does now and then."""


class Latency(Metric):
    """The time of one forward of one sample, in milliseconds."""

    kind: Literal["latency_ms"] = "latency_ms"
    title: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"
    better: ClassVar[Better] = "lower"

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        return latency_ms(context.model, context.inputs)


@torch.inference_mode()
def latency_ms(model: nn.Module, inputs: dict[str, Any]) -> float:
    """The median wall time of one forward pass on `inputs`, in milliseconds, after a few passes to warm up."""
    device = next(model.parameters()).device
    times = []
    for _ in range(WARMUP + REPEATS):
        start = time.perf_counter()
        model(**inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[WARMUP:])
