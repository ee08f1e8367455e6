"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from surgery.evaluate.metrics import Metrics
from surgery.evaluate.report import count
from surgery.graph import ModelGraph
from surgery.rewrite import Edit, Plan, Skipped
from surgery.rewrite.plan import Change


def stage_table(metrics: Metrics) -> Table:
    """The stages of a run, with the Frechet distance also as a ratio to the teacher's."""
    table = _table("stage", "Frechet", "x teacher", "accuracy", "params", "FLOPs", "latency", "time")
    teacher = metrics.stages[0]
    for stage in metrics.stages:
        table.add_row(
            stage.stage,
            f"{stage.frechet:.2f}",
            f"{stage.frechet / teacher.frechet:.2f}",
            f"{stage.accuracy:.1%}",
            count(stage.params),
            count(stage.flops),
            f"{stage.latency_ms:.1f} ms",
            f"{stage.seconds:.0f} s",
        )
    return table


def plan_view(plan: Plan) -> Group:
    """Edits, skipped sites and totals of a plan."""
    edits = _table("edit", "from", "to", "params", "FLOPs")
    for edit in plan.edits:
        edits.add_row(edit.path, edit.replaced, operator_words(edit), change(edit.params), change(edit.flops))
    edits.add_section()
    edits.add_row("whole model", "", "", change(plan.params), change(plan.flops))
    parts: list[Table | Text] = [edits]
    if plan.skipped:
        parts.append(_skipped(plan.skipped))
    parts += [Text(f"conflict: {conflict}", style="bold red") for conflict in plan.conflicts]
    return Group(*parts)


def operator_table(graph: ModelGraph) -> Table:
    """The operators of a model, with the whole model last."""
    table = _table("operator", "role", "class", "layer", "in", "out", "params", "FLOPs")
    for each in graph.operators():
        layer = "" if each.layer is None else str(each.layer)
        shapes = (_shape(each.in_shape), _shape(each.out_shape))
        role = each.role.replace("_", "-")
        table.add_row(each.path, role, each.module_class, layer, *shapes, count(each.params), count(each.flops))
    table.add_section()
    root = graph.root
    table.add_row("whole model", "", root.module_class.__name__, "", "", "", count(root.params), count(graph.flops))
    return table


def bench_table(figures: Mapping[str, Mapping[str, float]]) -> Table:
    """Latency of teacher and student by batch size, in milliseconds, and how many times faster the student is."""
    table = _table("batch", "teacher", "student", "speed-up")
    for batch, times in figures.items():
        ratio = times["teacher_ms"] / times["student_ms"]
        table.add_row(batch, f"{times['teacher_ms']:.2f} ms", f"{times['student_ms']:.2f} ms", f"{ratio:.2f} x")
    return table


def operator_words(edit: Edit) -> str:
    """The new operator as one would write it in a recipe, e.g. `HyenaX(kernel=4)`."""
    operator = edit.replacement.operator
    fields = ", ".join(f"{k}={v!r}" for k, v in operator.model_dump(exclude={"kind"}).items())
    return f"{type(operator).__name__}({fields})"


def change(counts: Change) -> str:
    """A count before and after, with the difference in percent."""
    if counts.before == counts.after:
        return count(counts.before)
    percent = f" ({100 * (counts.after / counts.before - 1):+.2f} %)" if counts.before else ""
    return f"{count(counts.before)} -> {count(counts.after)}{percent}"


def _skipped(skipped: tuple[Skipped, ...]) -> Table:
    table = _table("skipped", "why")
    for each in skipped:
        table.add_row(each.path, each.reason)
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(first)
    words = {"role", "class", "from", "to", "why", "in", "out"}
    for name in others:
        table.add_column(name, justify="left" if name in words else "right", overflow="fold")
    return table
