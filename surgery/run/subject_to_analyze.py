"""What `surgery analyze` observes: a model by name, and what it is run on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

import surgery.artifact
from surgery.digits.bench import BENCHES
from surgery.digits.data import CLASSES
from surgery.digits.feed import LABELS
from surgery.errors import RecipeError, SurgeryError
from surgery.models import BUILT_IN, load_pretrained, load_random
from surgery.models.presets import preset
from surgery.pipelines.calls import Calls, calls_of
from surgery.pipelines.drive import attribute_set
from surgery.pipelines.load import INDEX, call_of, from_hub, load_pipeline
from surgery.run.finished import subject_of
from surgery.run.folder import RunFolder, is_run
from surgery.run.subject import Subject
from surgery.statistics.driven import denoiser_of, observe_calls, observe_inputs
from surgery.statistics.observer import Observer
from surgery.store.order import seeded

TOGETHER = 10
"""Labels of one run."""


@dataclass(frozen=True)
class Sampling:
    """How a model is run while it is observed.

    Attributes:
        steps: of the scheduler, for each sample; of made-up inputs, how often they are drawn.
        samples: runs of the pipeline, each from noise of its own; prompts take turns.
        seed: of the noise.
    """

    steps: int = 50
    samples: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Analyzed:
    """A model, and what it is run on.

    Attributes:
        model: what is observed.
        driven_by: a line that says what runs it.
        run: runs it; the second argument is called after each step.
    """

    model: nn.Module
    driven_by: str
    run: Callable[[Observer, Callable[[], None]], None]


def analyzed(name: str, sampling: Sampling, call: Path | None = None, device: str = "cpu") -> Analyzed:
    """The model called `name`, with its pipeline if there is one, else with made-up inputs.

    Args:
        name: a folder that a pipeline, a diffusers model or surgery was saved to, that of a run, a hub id, or a built-in
            name.
        sampling: how often it is run.
        call: a JSON file with keywords of the pipeline; by default a prompt or a class, of an embedded model all classes.
        device: where it runs.

    Raises:
        SurgeryError: of the kind that fits; there is no such model, for example.
    """
    if is_run(name):
        return _of_run(RunFolder(name), sampling, call)
    pipeline = pipeline_of(name, device)
    if pipeline is not None:
        component, embedded = denoiser_of(pipeline), name in BUILT_IN
        all_classes = Calls({}, tuple(range(CLASSES)), LABELS, labels=True, steps=sampling.steps)
        calls = all_classes if embedded and call is None else _calls(pipeline, call, sampling)
        drawn = _drawn(calls, sampling, joins=embedded)
        return _of_pipeline(pipeline, component, drawn, getattr(pipeline, component))
    if call is not None:
        raise RecipeError(f"--call: {name} is no pipeline, so nothing takes keywords; leave it out")
    return _of_model(name, sampling, device)


def pipeline_of(name: str, device: str = "cpu") -> Any | None:
    """The pipeline called `name`: a folder, a hub id or a built-in name; None if there is none.

    Raises:
        SurgeryError: it cannot be loaded.
    """
    folder = _pipeline_folder(name)
    if folder is not None:
        return load_pipeline(folder).to(device)
    for bench in (bench for bench in BENCHES if bench.model == name):
        found = load_pretrained(name, device)
        return bench.pipeline(found.model, found.scheduler)
    return None


def analyzed_subject(subject: Subject, sampling: Sampling) -> Analyzed:
    """The model of a recipe in its pipeline, called as the recipe's data are."""
    sampler, joins = subject.sampler, subject.data.joins_samples
    calls = _drawn(sampler.calls, sampling, joins)
    return _of_pipeline(sampler.holder.pipeline, sampler.component, calls, subject.teacher.model)


def _of_run(folder: RunFolder, sampling: Sampling, call: Path | None) -> Analyzed:
    """The student of a run, in the pipeline of its recipe."""
    recipe, model = folder.recipe(), folder.finished_model()
    subject = subject_of(folder, recipe)
    sampler, pipeline = subject.sampler, subject.sampler.holder.pipeline
    calls = sampler.calls if call is None else _calls(pipeline, call, sampling)
    drawn = _drawn(calls, sampling, subject.data.joins_samples)
    return _of_pipeline(pipeline, sampler.component, drawn, surgery.artifact.load(model))


def _drawn(calls: Calls, sampling: Sampling, joins: bool = False) -> list[dict[str, Any]]:
    """The keywords of each run; labels share one if the pipeline joins samples, up to TOGETHER of them."""
    generators = [seeded(sampling.seed, "sample", number) for number in range(sampling.samples)]
    shared = {"steps": sampling.steps}
    if joins and calls.labels:
        numbers = range(min(TOGETHER, len(calls.prompts)))
        return [calls.together(numbers, generator=generator, **shared) for generator in generators]
    return [calls(number, generator=generator, **shared) for number, generator in enumerate(generators)]


def _of_pipeline(pipeline: Any, component: str, calls: Sequence[dict[str, Any]], model: nn.Module) -> Analyzed:
    """`model` in the place of a component of a pipeline."""

    def run(observer: Observer, advance: Callable[[], None]) -> None:
        with attribute_set(pipeline, component, model):
            observe_calls(pipeline, component, calls, observer, advance)

    plain = {name: value for name, value in calls[0].items() if name != "generator"}
    return Analyzed(model, f"{type(pipeline).__name__}, {len(calls)} x {json.dumps(plain, default=str)}", run)


def _of_model(name: str, sampling: Sampling, device: str) -> Analyzed:
    """A transformer alone."""
    try:
        model, weights = load_pretrained(name, device).model, ""
    except SurgeryError:
        if preset(name) is None:
            raise
        model, weights = load_random(name, sampling.seed).to(device), " and random weights, as its own cannot be had"
    seeds = range(sampling.seed, sampling.seed + sampling.steps * sampling.samples)

    def run(observer: Observer, advance: Callable[[], None]) -> None:
        observe_inputs(model, observer, seeds, advance)

    return Analyzed(model, f"made-up inputs{weights}, {len(seeds)} times", run)


def _pipeline_folder(name: str) -> Path | None:
    """Where the pipeline called `name` is; None if there is none."""
    if Path(name).exists():
        return Path(name) if (Path(name) / INDEX).is_file() else None
    if name in BUILT_IN or "/" not in name:
        return None
    try:
        return from_hub(name)
    except SurgeryError:
        return None


def _calls(pipeline: Any, call: Path | None, sampling: Sampling) -> Calls:
    return calls_of(pipeline, call_of(pipeline, call), (), sampling.steps)
