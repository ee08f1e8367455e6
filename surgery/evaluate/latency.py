"""How long a forward pass takes."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn

WARMUP, REPEATS = 3, 15


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
