"""How long a forward pass takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from surgery.errors import SurgeryError, first_line
from surgery.evaluate.context import Context
from surgery.evaluate.metrics.base import Metric
from surgery.evaluate.results import Better, Column
from surgery.parallel.group import from_first

WARMUP, LEAST, MOST, SECONDS = 3, 15, 100, 1.0
"""Passes before those that are timed; how many of these at least and at most, and for how long if there may be more.

The median of 15 leaves out what else a machine does now and then; passes of a few milliseconds need more for that.
"""


class Latency(Metric):
    """The time of one forward of one sample, in milliseconds.

    Attributes:
        compiled: by `torch.compile`, which takes minutes for a large model.
    """

    kind: Literal["latency_ms"] = "latency_ms"
    title: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"
    better: ClassVar[Better] = "lower"
    note: ClassVar[str] = (
        "Median of 15 to 100 forwards of one sample on the machine of the run, stage after stage: what else ran there "
        "counts. surgery bench measures teacher and student in turns."
    )

    compiled: bool = False

    @property
    def name(self) -> str:
        """See `Metric`."""
        return f"compiled_{self.kind}" if self.compiled else self.kind

    @property
    def column(self) -> Column:
        """See `Metric`."""
        title = f"{self.title}, compiled" if self.compiled else self.title
        return Column(title=title, unit=self.unit, better=self.better, note=self.note)

    def compute(self, context: Context) -> float:
        """See `Metric`."""
        return latencies_ms([context.model], context.inputs, compiled=self.compiled)[0]


@torch.inference_mode()
def latencies_ms(
    models: Sequence[nn.Module],
    inputs: dict[str, Any],
    *,
    compiled: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The time of one forward pass of each model on `inputs`, in milliseconds, after a few to warm up.

    The models take turns, and the machine may change its speed in between: so the first is told by the median of its
    times, and each other one by the median of the ratios to the first in the same turn. Time is that of `clock`, in
    seconds.

    Raises:
        SurgeryError: a model cannot be compiled.
    """
    runs = [_compiled(model, inputs) if compiled else model for model in models]

    def turn() -> list[float]:
        return [_seconds(run, inputs, clock) for run in runs]

    longest = max(statistics.median(times) for times in zip(*(turn() for _ in range(WARMUP)), strict=True))
    # Processes that share a model out need each other in every pass.
    count = from_first(min(MOST, max(LEAST, int(SECONDS / max(longest, SECONDS / MOST)))))
    turns = [turn() for _ in range(count)]
    first = statistics.median(times[0] for times in turns)
    ratios = zip(*([own / times[0] for own in times] for times in turns), strict=True)
    return [1000 * first * statistics.median(own) for own in ratios]


def _seconds(run: Callable[..., Any], inputs: dict[str, Any], clock: Callable[[], float]) -> float:
    start = clock()
    run(**inputs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def _compiled(model: nn.Module, inputs: dict[str, Any]) -> Callable[..., Any]:
    run = torch.compile(model)
    try:
        run(**inputs)
    except Exception as error:  # whatever the compiler says, such as that there is none for C++
        raise SurgeryError(
            f"{type(model).__name__} cannot be compiled: {first_line(error)}; measure it uncompiled"
        ) from error
    return run
