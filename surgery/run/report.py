"""The report of a run, drawn from the files in its folder alone."""

from __future__ import annotations

import json
from typing import Any

from surgery.artifact import is_artifact
from surgery.evaluate.report import Report, render_report
from surgery.evaluate.results import Metrics
from surgery.rewriting import Plan
from surgery.run.folder import ANALYSIS, SOURCE, RunFolder
from surgery.run.loading import loading_of
from surgery.run.terminal import operator_words
from surgery.statistics.show import COLUMNS


def report_of(folder: RunFolder) -> str:
    """`report.html` as one self-contained page; of a run that goes on, with what there is so far.

    Raises:
        ArtifactError: a file of the run is damaged, or it has not been planned yet.
    """
    recipe, plan = folder.recipe(), folder.read_model("plan.json", Plan)
    metrics, losses = folder.metrics(), folder.losses()
    grids = {s.stage: folder.sample(s.stage) for s in metrics.stages}
    is_whole = is_artifact(folder.model)
    return render_report(
        Report(
            title=f"{recipe['model']}, {metrics.recipe}",
            metrics=metrics,
            losses=losses,
            grids={stage: path.read_bytes() for stage, path in grids.items() if path.exists()},
            edits=[_edit(edit) for edit in plan.edits],
            skipped=[each.model_dump() for each in plan.skipped],
            graph_svg=folder.read("graph.svg", missing=""),
            recipe=recipe,
            source=folder.read(SOURCE, missing=json.dumps(recipe, indent=2)),
            origins=tuple(origin.model_dump() for origin in folder.origins()),
            loading=loading_of(folder, recipe) if is_whole else "",
            analysis=tuple(folder.read_json(ANALYSIS, missing={}).get("layers", ())),
            meanings=COLUMNS,
            status="" if is_whole else status_of(metrics, losses, recipe),
        )
    )


def _edit(edit: Any) -> dict[str, Any]:
    columns = edit.model_dump(include={"path", "rule", "layer", "replaced", "loss", "params", "flops"})
    return {**columns, "operator": operator_words(edit)}


def status_of(metrics: Metrics, losses: list[dict[str, Any]], recipe: dict[str, Any]) -> str:
    """How far a run that has no student yet has come."""
    if not losses:
        done = (
            f"measured so far: {', '.join(s.stage for s in metrics.stages)}" if metrics.stages else "only planned yet"
        )
        return f"This run has not ended; {done}."
    last = losses[-1]
    steps = (recipe.get(last["stage"]) or {}).get("steps", "?")
    return f"This run has not ended; it has come to step {last['step']} of {steps} of the stage {last['stage']}."
