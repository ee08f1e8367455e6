"""What a wiring is made of: the schedule, the branches of guidance, and what else they are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from surgery.pipelines.affine import Affine
from surgery.pipelines.table import Table
from surgery.pipelines.tree import Arguments


@dataclass(frozen=True)
class Schedule:
    """The steps of the pipeline's whole schedule, the noisiest first; a *position* is the number of one of them.

    Attributes:
        scheduler: class of the scheduler.
        config: of the scheduler.
        timesteps: (positions,), float64.
        sigmas: (positions,), float64; None for schedulers that keep none.
    """

    scheduler: str
    config: dict[str, Any]
    timesteps: Tensor
    sigmas: Tensor | None

    def __len__(self) -> int:
        return len(self.timesteps)


@dataclass(frozen=True)
class Branch:
    """One branch of guidance: one forward of a step, or one row of a forward.

    Attributes:
        call, row: which forward of a step, and which of its rows.
        weight: of its prediction in what the scheduler gets.
        models: name of the model that makes it, by position.
        latents: what comes from the latents, by path.
        times: what depends on the position alone, by path.
    """

    call: int
    row: int
    weight: float
    models: tuple[str, ...]
    latents: dict[str, Affine]
    times: dict[str, Table]


@dataclass(frozen=True)
class Condition:
    """What else a branch is given: text, sizes, masks; of one sample.

    Attributes:
        branch: number of the branch.
        arguments: of one sample, as in the pipeline. In place of what comes from the latents stand the elements
            that do not (masks, a first frame), flat; in place of what depends on the position, None.
    """

    branch: int
    arguments: Arguments
