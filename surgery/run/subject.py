"""What a recipe is about: the teacher, what it is taught by, and how samples of it are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from surgery.data import Data
from surgery.errors import RecipeError
from surgery.evaluate.pipeline_sampler import PipelineSampler
from surgery.evaluate.sample import LatentSampler
from surgery.evaluate.sampling import Sampler
from surgery.models import Pretrained, load_pretrained
from surgery.pipelines.feed import feed_of, identity_of, stored_feed
from surgery.pipelines.load import PipelineFolder
from surgery.training.batches import LatentData
from surgery.training.data import load_data
from surgery.training.recorded import RecordedData
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


def load_subject(
    model: str,
    data: str | Data,
    seed: int,
    device: str = "cpu",
    made: Path | None = None,
    dtype: str = "float32",
) -> Subject:
    """Load a model and find out how it is fed.

    Args:
        model: see `Recipe`.
        data: see `Recipe`.
        seed: of what is made.
        device: where the model goes, and all else that has to run to make data.
        made: where data may have been made already; then nothing but the model is loaded.
        dtype: of the model, and of all else that has to run to make data.

    Raises:
        SurgeryError: of the kind that fits.
    """
    if isinstance(data, Data):
        return _of_pipeline(model, data, seed, device, made, dtype)
    teacher = load_pretrained(model, device)
    teacher.model.to(getattr(torch, dtype))
    return Subject(teacher, LatentData(load_data(data), teacher.scheduler), LatentSampler(teacher.scheduler))


def _of_pipeline(name: str, data: Data, seed: int, device: str, made: Path | None, dtype: str) -> Subject:
    folder = PipelineFolder(name, device, getattr(torch, dtype))
    identity = {"diffusers": version("diffusers"), "dtype": dtype, **folder.identity(), **identity_of(data, seed)}
    feed = (stored_feed(made, identity) if made else None) or feed_of(data, folder, seed)
    model = folder.take(feed.model)
    if not type(model).__module__.startswith("diffusers.models.transformers"):
        raise RecipeError(f"model {name!r}: {feed.model} is a {type(model).__name__}, no diffusion transformer")
    fed = (WiredData if feed.recorded is None else RecordedData)(feed.to(device), identity, folder.release)
    sampler = PipelineSampler(folder, feed.model, feed.calls)
    return Subject(Pretrained(name, model, folder.take("scheduler")), fed, sampler)
