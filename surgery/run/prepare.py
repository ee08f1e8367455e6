"""Before a run: all is loaded and planned, and all that is wrong with a recipe found, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from surgery.data import Data
from surgery.device import require_device
from surgery.digits.metrics import METRICS, not_digits
from surgery.errors import RecipeError
from surgery.evaluate.metrics import HeldOutLoss, Metric, TeacherDistance
from surgery.evaluate.sampling import Sampler
from surgery.evaluate.settings import Evaluate
from surgery.graph import ModelGraph
from surgery.models import Pretrained, load_skeleton
from surgery.models.inputs import example_inputs
from surgery.models.presets import preset
from surgery.progress import Progress, SilentProgress
from surgery.recipe import Recipe
from surgery.rewriting import Plan, plan
from surgery.rewriting.commit import require_no_conflicts
from surgery.rewriting.planning import Recordings, prove
from surgery.run.figures import asked_by, give_figures, require_no_figures
from surgery.run.subject import load_subject
from surgery.tracing import trace
from surgery.training.source import TrainingData


@dataclass(frozen=True)
class Opened:
    """What a recipe is about, before its rules are planned.

    Attributes:
        recipe: what is to be done.
        teacher: the pretrained model with its scheduler.
        data: what it is trained on, not made yet where making it takes long.
        sampler: draws samples of it and of its students.
        graph: of the teacher, traced on one sample of the data.
        metrics: by which its quality is judged, in this order; none if the recipe asks for none.
        samples: how many are drawn to judge by.
    """

    recipe: Recipe
    teacher: Pretrained
    data: TrainingData
    sampler: Sampler
    graph: ModelGraph
    metrics: tuple[Metric, ...]
    samples: int


@dataclass(frozen=True)
class Prepared(Opened):
    """All that a run needs.

    Attributes:
        plan: what the rules do to the teacher.
        recordings: what planning has made, for the commit.
    """

    plan: Plan
    recordings: Recordings


def open_recipe(
    recipe: Recipe,
    device: str = "cpu",
    made: Path | None = None,
    progress: Progress | None = None,
    divided: bool = False,
) -> Opened:
    """Load the model and the data of a recipe and trace the model; nothing is written.

    Args:
        recipe: to prepare for.
        device: where the model goes.
        made: where its data may have been made already, see `load_subject`.
        progress: shows how far an analysis has come, if the recipe selects layers by one.
        divided: see `load_subject`.

    Raises:
        SurgeryError: of the kind that fits.
    """
    require_device(device)
    subject = load_subject(recipe.model, recipe.data, recipe.seed, device, made, recipe.dtype, divided)
    graph = trace(subject.teacher.model, subject.data.example(recipe.seed, "cpu" if divided else device))
    give_figures(graph, recipe, subject, progress or SilentProgress())
    metrics, samples = metrics_for(recipe.evaluate, subject.data) if recipe.evaluate else ((), 0)
    return Opened(recipe, subject.teacher, subject.data, subject.sampler, graph, metrics, samples)


def prepare(
    recipe: Recipe,
    device: str = "cpu",
    made: Path | None = None,
    progress: Progress | None = None,
    *,
    divided: bool = False,
) -> Prepared:
    """As `open_recipe`, with the rules planned.

    Raises:
        SurgeryError: of the kind that fits.
    """
    _require_no_search(recipe)
    opened = open_recipe(recipe, device, made, progress, divided)
    planned, recordings = prove(opened.graph, recipe.rules)
    require_no_conflicts(planned)
    return Prepared(**vars(opened), plan=planned, recordings=recordings)


def _require_no_search(recipe: Recipe) -> None:
    if recipe.search is not None:
        raise RecipeError(
            "search: the rules of this recipe are candidates; run `surgery search`, and apply the recipe that it writes"
        )


def plan_recipe(recipe: Recipe, progress: Progress | None = None) -> Plan:
    """What the rules of a recipe do to its model, at the model's own sizes. See `load_skeleton` on weights.

    With data of a pipeline, it is planned on what the pipeline gives the model, masks included. A model whose config
    alone is at hand is planned on made-up inputs.

    Args:
        recipe: to plan.
        progress: shows how far an analysis has come, if the recipe selects layers by one.

    Raises:
        SurgeryError: of the kind that fits.
    """
    _require_no_search(recipe)
    if preset(recipe.model) is not None:
        require_no_figures(recipe)
    elif isinstance(recipe.data, Data) or asked_by(recipe):
        subject = load_subject(recipe.model, recipe.data, recipe.seed, dtype=recipe.dtype)
        graph = trace(subject.teacher.model, subject.data.example(recipe.seed, "cpu"))
        give_figures(graph, recipe, subject, progress or SilentProgress())
        return plan(graph, recipe.rules)
    model = load_skeleton(recipe.model)
    return plan(model, recipe.rules, example_inputs(model))


def metrics_for(evaluate: Evaluate, data: TrainingData) -> tuple[tuple[Metric, ...], int]:
    """The metrics that a recipe names, or else those that fit its data; and how many samples are drawn for them.

    Raises:
        RecipeError: a metric cannot judge models of these data by so many samples; there is a line for each.
    """
    metrics = _fitting(data) if evaluate.metrics is None else evaluate.metrics
    samples = evaluate.samples or max((metric.usual_samples for metric in metrics), default=Metric.usual_samples)
    reasons = {metric.name: metric.check(data, samples) for metric in metrics}
    lines = [f"evaluate: metric {name!r}: {reason}" for name, reason in reasons.items() if reason is not None]
    if lines:
        raise RecipeError("\n".join(lines))
    return metrics, samples


def _fitting(data: TrainingData) -> tuple[Metric, ...]:
    """The metrics that fit `data`: none is of held-out samples where there are surely too few to hold one out."""
    if not_digits(data) is None:
        return METRICS
    held_out = HeldOutLoss()
    return (TeacherDistance(),) if held_out.check(data, 0) else (held_out, TeacherDistance())
