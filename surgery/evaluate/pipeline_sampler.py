"""Samples of a model through the pipeline that it belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils import _pytree as pytree

from surgery.data.generated import Prompt
from surgery.errors import RecipeError
from surgery.evaluate.sampling import Drawn, Sampling
from surgery.parallel.group import from_all, rank
from surgery.parallel.group import size as processes
from surgery.pipelines.calls import Calls
from surgery.pipelines.drive import attribute_set
from surgery.pipelines.record import first_step, run_to_end
from surgery.pipelines.sources import Holder
from surgery.store.order import seeded

SIMILAR = 1e-2
"""By how much, of the largest number, predictions may differ between samples alone and together."""


@dataclass(frozen=True)
class PipelineSampler:
    """Runs a pipeline with a model in the place of its own; a `surgery.evaluate.sampling.Sampler`.

    Attributes:
        holder: of the pipeline, all of which is in memory while samples are drawn.
        component: the name of the model's place.
        calls: what it is called with.
    """

    holder: Holder
    component: str
    calls: Calls
    _joined: dict[Sampling, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def prompts(self, samples: int) -> list[Prompt]:
        """See `Sampler`."""
        return [self.calls.prompt(number) for number in range(samples)] if self.calls.prompts else []

    def require(self, settings: Sampling) -> None:
        """See `Sampler`."""
        pipeline = self.holder.pipeline if settings.guidance is not None else None
        if pipeline is not None and "guidance_scale" not in inspect.signature(pipeline.__call__).parameters:
            raise RecipeError(f"evaluate.guidance: {type(pipeline).__name__} has no guidance_scale; leave it out")

    def draw(
        self, model: nn.Module, count: int, settings: Sampling, seed: int, advance: Callable[[int], None]
    ) -> Drawn:
        """See `Sampler`."""
        pipeline, drawn = self.holder.pipeline, list[Drawn]()
        with attribute_set(pipeline, self.component, model):
            size = settings.batch_size
            if min(size, count) > 1 and not self._joins(pipeline, settings, seed):
                size = 1
            batches = [range(start, min(start + size, count)) for start in range(0, count, size)]
            for first in range(0, len(batches), processes()):
                at_once = batches[first : first + processes()]
                own = at_once[min(rank(), len(at_once) - 1)]  # one too many runs as well: sharded weights need all
                last, output = run_to_end(pipeline, self._call(own, settings, seed) | {"output_type": "pil"})
                made = Drawn(last[: len(own)].float().cpu(), _first_pictures(output, len(own)))
                drawn += from_all(made)[: len(at_once)]
                advance(sum(map(len, at_once)))
        self.holder.release()
        return Drawn(torch.cat([each.latents for each in drawn]), [p for each in drawn for p in each.pictures])

    def _call(self, numbers: Sequence[int], settings: Sampling, seed: int) -> dict[str, Any]:
        """The keywords for samples, each from noise of its own."""
        generators = [seeded(seed, "sample", number) for number in numbers]
        guided = {} if settings.guidance is None else {"guidance_scale": settings.guidance}
        if len(numbers) == 1:
            return self.calls(numbers[0], steps=settings.steps, generator=generators[0], **guided)
        return self.calls.together(numbers, steps=settings.steps, generator=generators, **guided)

    def _joins(self, pipeline: Any, settings: Sampling, seed: int) -> bool:
        """Whether samples come out together as they do alone: tried once, with the first model that is drawn from."""
        if settings not in self._joined:
            self._joined[settings] = self._are_alike(pipeline, settings, seed)
        return self._joined[settings]

    def _are_alike(self, pipeline: Any, settings: Sampling, seed: int) -> bool:
        """Whether two samples start from the same noise as they do alone, to the same prediction."""
        try:
            both = first_step(pipeline, self._call(range(2), settings, seed))
            alone = [first_step(pipeline, self._call([number], settings, seed)) for number in range(2)]
            # Where the scheduler has the latents twice, all samples come once before they come again.
            started = torch.equal(both.sample, torch.stack([one.sample for one in alone], 1).flatten(0, 1))
            expected = torch.stack([one.model_output for one in alone], 1).flatten(0, 1)
            difference = float((both.model_output - expected).abs().max())
        except Exception:  # whatever a pipeline says to a call that it was not made for
            return False
        return started and difference <= SIMILAR * float(expected.abs().max())


def _first_pictures(output: Any, samples: int) -> list[Image.Image]:
    """The first picture of each sample in what a pipeline gives."""
    found = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Image.Image)]
    return found[:: len(found) // samples] if found else []
