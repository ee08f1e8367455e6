"""The report of a run, drawn from the files in its folder alone."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from surgery.evaluate.report import Report, render_report
from surgery.evaluate.results import Metrics
from surgery.rewriting import Plan
from surgery.run.folder import IDENTITY, RECIPE, RunFolder
from surgery.run.terminal import operator_words

PACKAGES = ("surgery", "torch", "diffusers")


def report_of(folder: RunFolder) -> str:
    """`report.html` as one self-contained page.

    Raises:
        ArtifactError: a file of the run is missing or damaged.
    """
    metrics, plan = folder.read_model("metrics.json", Metrics), folder.read_model("plan.json", Plan)
    recipe = {name: value for name, value in folder.read_json(RECIPE).items() if name != IDENTITY}
    if "model" not in recipe:
        raise folder.altered(RECIPE, "it names no model")
    grids = {s.stage: folder.sample(s.stage) for s in metrics.stages}
    return render_report(
        Report(
            title=f"{recipe['model']}, {metrics.recipe}",
            metrics=metrics,
            losses=folder.read_json("losses.json", list),
            grids={stage: path.read_bytes() for stage, path in grids.items() if path.exists()},
            edits=[_edit(edit) for edit in plan.edits],
            skipped=[each.model_dump() for each in plan.skipped],
            graph_svg=folder.read("graph.svg"),
            recipe=recipe,
            versions={name: version(name) for name in PACKAGES},
        )
    )


def _edit(edit: Any) -> dict[str, Any]:
    columns = edit.model_dump(include={"path", "rule", "layer", "replaced", "params", "flops"})
    return {**columns, "operator": operator_words(edit)}
