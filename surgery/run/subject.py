"""What a recipe is about: the teacher, what it is taught by, and how samples of it are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from surgery.artifact.rebuild import is_transformer
from surgery.data import Data, FashionMNIST
from surgery.digits.bench import bench_of, load_pictures
from surgery.digits.feed import digits_feed
from surgery.digits.pipeline import DigitsPipeline
from surgery.errors import RecipeError
from surgery.evaluate.pipeline_sampler import PipelineSampler
from surgery.models import BUILT_IN, Pretrained, load_pretrained
from surgery.pipelines.feed import feed_of, identity_of, stored_feed
from surgery.pipelines.load import LoadedPipeline, PipelineFolder, from_hub
from surgery.training.checkpoint import digest
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
    sampler: PipelineSampler


def load_subject(
    model: str,
    data: str | Data,
    seed: int,
    device: str = "cpu",
    made: Path | None = None,
    dtype: str = "float32",
    divided: bool = False,
) -> Subject:
    """Load a model and find out how it is fed.

    Args:
        model: see `Recipe`.
        data: see `Recipe`.
        seed: of what is made.
        device: where the model goes, and all else that has to run to make data.
        made: where data may have been made already; then nothing but the model is loaded.
        dtype: of the model, and of all else that has to run to make data.
        divided: the model is to be divided among processes: unless it has to run before, it stays on the CPU, where its
            weights are mapped from their files and not read yet.

    Raises:
        SurgeryError: of the kind that fits.
    """
    at = "cpu" if divided else device
    holder = _holder_of(model, data, device, getattr(torch, dtype), at)
    if isinstance(data, Data) and not isinstance(data, FashionMNIST):
        identity = {"diffusers": version("diffusers"), "dtype": dtype, **holder.identity(), **identity_of(data, seed)}
        feed = (stored_feed(made, identity) if made else None) or feed_of(data, holder, seed)
    else:
        pictures = load_pictures(data)
        identity = {**holder.identity(), "data": digest(pictures._asdict())}
        feed = digits_feed(holder.pipeline, pictures)
    teacher = holder.take(feed.model, at)
    if not is_transformer(type(teacher)):
        raise RecipeError(f"model {model!r}: {feed.model} is a {type(teacher).__name__}, no diffusion transformer")
    fed = (WiredData if feed.recorded is None else RecordedData)(feed.to(device), identity, holder.release)
    sampler = PipelineSampler(holder, feed.model, feed.calls)
    return Subject(Pretrained(model, teacher, holder.take("scheduler")), fed, sampler)


def _holder_of(
    model: str, data: str | Data, device: str, dtype: torch.dtype, at: str
) -> LoadedPipeline | PipelineFolder:
    """The pipeline of a model; that of a bench is made of a model and a scheduler alone."""
    bench = bench_of(data)
    if bench is None and model not in BUILT_IN:
        return PipelineFolder(model if Path(model).exists() else from_hub(model), device, dtype)
    pretrained = load_pretrained(model, at)
    if dtype != torch.float32:  # to which diffusers says something even then
        pretrained.model.to(dtype)
    made_of = DigitsPipeline if bench is None else bench.pipeline
    return LoadedPipeline(made_of(pretrained.model, pretrained.scheduler))
