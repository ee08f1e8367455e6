"""Batches for a denoiser out of samples: those that can share a forward do, others get one of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from surgery.pipelines.batching import Batching
from surgery.pipelines.parts import Condition
from surgery.pipelines.tree import Arguments, leaves, same
from surgery.pipelines.wiring import Wiring


@dataclass(frozen=True)
class Batch:
    """What one forward is for.

    Attributes:
        rows: numbers of the samples, in the order of the forward's rows.
        model: name of the component to run.
        arguments: of its forward.
    """

    rows: tuple[int, ...]
    model: str
    arguments: Arguments


def collate(
    wiring: Wiring, latents: Tensor, positions: Tensor, conditions: Sequence[Condition], most: int | None = None
) -> list[Batch]:
    """The forwards that `latents` need, as few as shapes and the model's own batching allow.

    Args:
        wiring: of the pipeline.
        latents: z_t, (B, *wiring.shape).
        positions: in the schedule, (B,).
        conditions: of each sample.
        most: samples of one forward.
    """
    groups: list[tuple[str, list[int], list[Arguments]]] = []
    for row, (z, position, condition) in enumerate(zip(latents, positions.tolist(), conditions, strict=True)):
        arguments = wiring.arguments_of(z, position, condition)
        model = wiring.model_at(position, condition.branch)
        for name, rows, members in groups:
            if name == model and len(rows) != most and _fit(wiring.batching, members[0], arguments):
                rows.append(row)
                members.append(arguments)
                break
        else:
            groups.append((model, [row], [arguments]))
    return [Batch(tuple(rows), model, wiring.batching.join(members)) for model, rows, members in groups]


def _fit(batching: Batching, one: Arguments, other: Arguments) -> bool:
    """Whether two samples' arguments can be joined."""
    if batching.odd or not (batching.dims or batching.lists):
        return False
    mine, others = leaves(one), leaves(other)
    if mine.keys() != others.keys():
        return False
    return all(_joins(batching, path, leaf, others[path]) for path, leaf in mine.items())


def _joins(batching: Batching, path: str, a: Any, b: Any) -> bool:
    if any(path.startswith(f"{name}.") for name in batching.lists):
        return True
    if path in batching.dims and isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype
    return same(a, b)
