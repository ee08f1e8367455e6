"""Whether a denoiser knows the numbers that samples ask for, such as labels: found by running it on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from surgery.errors import RecipeError, first_line
from surgery.pipelines.collate import collate
from surgery.pipelines.parts import Condition
from surgery.pipelines.sources import condition_of
from surgery.pipelines.tree import moved
from surgery.pipelines.wiring import Wiring
from surgery.store.sample import Sample


def require_known(pipeline: Any, wiring: Wiring, samples: Iterable[Sample]) -> None:
    """Run the denoiser of `pipeline` once on each of `samples`.

    Raises:
        RecipeError: it ends in an error, as an embedding does that has no row for a label.
    """
    branch = wiring.conditional
    model = getattr(pipeline, wiring.model_at(0, branch))
    for sample in samples:
        noise = sample.latents.unsqueeze(0).to(pipeline.device, torch.float32)
        condition = Condition(branch, moved(condition_of(sample, branch).arguments, pipeline.device))
        batch = collate(wiring, noise, torch.zeros(1, dtype=torch.long), [condition])
        try:
            with torch.no_grad():
                model(**batch[0].arguments)
        except Exception as error:  # whatever a model says to a number that it was not made for
            numbers = _numbers(sample, branch)
            raise RecipeError(
                f"data: {type(model).__name__} does not run with {numbers}: {first_line(error)}; check the data"
            ) from error


def _numbers(sample: Sample, branch: int) -> str:
    """The whole numbers among the conditions."""
    given = condition_of(sample, branch).arguments
    numbers = {name: value for name, value in given.items() if isinstance(value, torch.Tensor) and value.numel() == 1}
    return ", ".join(f"{name}={value.item()}" for name, value in numbers.items()) or "what a sample asks for"
