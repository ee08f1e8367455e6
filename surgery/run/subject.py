"""What a recipe is about: the teacher, what it is taught by, and how samples of it are drawn."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from surgery.data import Generated, read_prompts
from surgery.errors import RecipeError
from surgery.evaluate.pipeline_sampler import PipelineSampler
from surgery.evaluate.sample import LatentSampler
from surgery.evaluate.sampling import Sampler
from surgery.models import Pretrained, load_pretrained
from surgery.pipelines.drive import modules
from surgery.pipelines.generated import Calls, GeneratedSamples
from surgery.pipelines.load import load_pipeline
from surgery.pipelines.probe import measure
from surgery.pipelines.wiring import Wiring
from surgery.training.batches import LatentData
from surgery.training.checkpoint import digest
from surgery.training.data import load_data
from surgery.training.source import TrainingData
from surgery.training.wired import WiredData


@dataclass(frozen=True)
class Subject:
    """What a recipe is about.

    Attributes:
        teacher: the pretrained model with its scheduler.
        data: what it is trained on, not made yet where making it takes long.
        sampler: draws samples of it and of its students.
    """

    teacher: Pretrained
    data: TrainingData
    sampler: Sampler


def load_subject(model: str, data: str | Generated, seed: int, device: str = "cpu") -> Subject:
    """Load a model and find out how it is fed.

    Args:
        model: see `Recipe`.
        data: see `Recipe`.
        seed: of what is made.
        device: where the model goes, and all else that has to run to make data.

    Raises:
        SurgeryError: of the kind that fits.
    """
    if isinstance(data, Generated):
        return _of_pipeline(model, data, seed, device)
    teacher = load_pretrained(model, device)
    return Subject(teacher, LatentData(load_data(data), teacher.scheduler), LatentSampler(teacher.scheduler))


def _of_pipeline(name: str, generated: Generated, seed: int, device: str) -> Subject:
    pipeline = load_pipeline(name).to(device)
    calls = Calls(pipeline, generated)
    wiring = measure(pipeline, calls(0)).to(device)
    samples = GeneratedSamples(pipeline, calls, wiring, generated.samples, seed)
    data = WiredData(wiring, samples, _identity(pipeline, wiring, generated, seed))
    model = getattr(pipeline, data.model)
    if not type(model).__module__.startswith("diffusers.models.transformers"):
        raise RecipeError(f"model {name!r}: {data.model} is a {type(model).__name__}, no diffusion transformer")
    data.process  # noqa: B018  # a scheduler of no known process is refused before anything is made
    return Subject(Pretrained(name, model, pipeline.scheduler), data, PipelineSampler(pipeline, data.model, calls))


def _identity(pipeline: Any, wiring: Wiring, generated: Generated, seed: int) -> dict[str, str]:
    """What the samples of a pipeline depend on."""
    weights = {f"{name}.{key}": t for name, part in modules(pipeline).items() for key, t in part.state_dict().items()}
    schedule = wiring.schedule
    made_by = [generated.model_dump(mode="json"), read_prompts(generated), seed, version("diffusers"), wiring.pipeline]
    return {
        "data": digest(weights, json.dumps(made_by)),
        "scheduler": digest(
            {"timesteps": schedule.timesteps}, f"{schedule.scheduler} {sorted(schedule.config.items())}"
        ),
    }
