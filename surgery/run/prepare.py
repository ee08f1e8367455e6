"""Before a run: all is loaded and planned, and all that is wrong with a recipe found, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

from surgery.device import require_device
from surgery.digits.metrics import METRICS, not_digits
from surgery.errors import RecipeError
from surgery.evaluate.metrics import HeldOutLoss, Metric, TeacherDistance
from surgery.evaluate.settings import Evaluate
from surgery.graph import ModelGraph
from surgery.models import Pretrained, load_pretrained, load_skeleton
from surgery.models.inputs import example_inputs
from surgery.recipe import Recipe
from surgery.rewriting import Plan, plan
from surgery.rewriting.commit import require_no_conflicts
from surgery.rewriting.planning import Recordings, prove
from surgery.tracing import trace
from surgery.training.data import LatentDataset, load_data
from surgery.training.diffusion import noised_batch


@dataclass(frozen=True)
class Prepared:
    """All that a run needs.

    Attributes:
        recipe: what is to be done.
        teacher: the pretrained model with its scheduler.
        data: what it is trained on.
        graph: of the teacher, traced on one sample of the data.
        plan: what the rules do to it.
        recordings: what planning has made, for the commit.
        metrics: by which its quality is judged, in this order; none if the recipe asks for none.
    """

    recipe: Recipe
    teacher: Pretrained
    data: LatentDataset
    graph: ModelGraph
    plan: Plan
    recordings: Recordings
    metrics: tuple[Metric, ...]


def prepare(recipe: Recipe, device: str = "cpu") -> Prepared:
    """Load the model and the data of a recipe, trace the model and plan the rules; nothing is written.

    Raises:
        SurgeryError: of the kind that fits.
    """
    require_device(device)
    teacher = load_pretrained(recipe.model, device)
    data = load_data(recipe.data)
    inputs = noised_batch(data, teacher.scheduler, 0, 1, recipe.seed, device=device).inputs
    graph = trace(teacher.model, inputs)
    planned, recordings = prove(graph, recipe.rules)
    require_no_conflicts(planned)
    metrics = metrics_for(recipe.evaluate, data) if recipe.evaluate else ()
    return Prepared(recipe, teacher, data, graph, planned, recordings, metrics)


def plan_recipe(recipe: Recipe) -> Plan:
    """What the rules of a recipe do to its model, at the model's own sizes. See `load_skeleton` on weights.

    Raises:
        SurgeryError: of the kind that fits.
    """
    model = load_skeleton(recipe.model)
    return plan(model, recipe.rules, example_inputs(model))


def metrics_for(evaluate: Evaluate, data: LatentDataset) -> tuple[Metric, ...]:
    """The metrics that a recipe names, or else those that fit its data.

    Raises:
        RecipeError: a metric cannot judge models of these data by so many samples; there is a line for each.
    """
    fitting = METRICS if not_digits(data) is None else (HeldOutLoss(), TeacherDistance())
    metrics = fitting if evaluate.metrics is None else evaluate.metrics
    reasons = {metric.name: metric.check(data, evaluate.samples) for metric in metrics}
    lines = [f"evaluate: metric {name!r}: {reason}" for name, reason in reasons.items() if reason is not None]
    if lines:
        raise RecipeError("\n".join(lines))
    return metrics
