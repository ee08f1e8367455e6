"""Samples of a model through the pipeline that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils import _pytree as pytree

from surgery.evaluate.sampling import Drawn, Sampling
from surgery.pipelines.calls import Calls
from surgery.pipelines.drive import attribute_set
from surgery.pipelines.load import PipelineFolder
from surgery.pipelines.record import run_to_end
from surgery.store.order import seeded

LARGEST_PICTURE = (128, 128)
"""Width and height in a grid, in pixels."""


@dataclass(frozen=True)
class PipelineSampler:
    """Runs a pipeline with a model in the place of its own; a `surgery.evaluate.sampling.Sampler`.

    Attributes:
        folder: of the pipeline, all of which is in memory while samples are drawn.
        component: the name of the model's place.
        calls: what it is called with.
    """

    folder: PipelineFolder
    component: str
    calls: Calls

    def draw(self, model: nn.Module, settings: Sampling, seed: int, advance: Callable[[int], None]) -> Drawn:
        """See `Sampler`. Of a video, the first frame is the picture."""
        latents, pictures, pipeline = [], [], self.folder.pipeline
        with attribute_set(pipeline, self.component, model):
            for number in range(settings.samples):
                call = self.calls(
                    number, steps=settings.steps, generator=seeded(seed, "sample", number), output_type="pil"
                )
                last, output = run_to_end(pipeline, call)
                latents.append(last[0].float().cpu())
                pictures += _pictures_in(output)[:1]
                advance(1)
        self.folder.release()
        return Drawn(torch.stack(latents), pictures)


def _pictures_in(output: Any) -> list[Image.Image]:
    """The pictures in what a pipeline gives, small enough for a grid."""
    found = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Image.Image)]
    for picture in found[:1]:
        picture.thumbnail(LARGEST_PICTURE)
    return found
