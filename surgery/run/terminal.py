"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from surgery.evaluate.comparison import Comparison
from surgery.evaluate.report import count
from surgery.evaluate.report.words import NOTHING, columns_of, figure, headline, ratio, spread_words
from surgery.evaluate.results import Metrics
from surgery.graph import ModelGraph
from surgery.graph.show.diff import Difference
from surgery.graph.show.tree import Entry, module_tree
from surgery.operators import OperatorConfig
from surgery.operators.backends.report import Device, Kernel, words
from surgery.rewriting import Change, Edit, Plan, Skipped
from surgery.run.memory import Memory
from surgery.search.result import Option, SearchResult

LISTED = 8
"""Differences of a run; there may be many more."""


def stage_table(metrics: Metrics) -> Table:
    """The metrics of each stage, the first one also as a ratio to the teacher's."""
    columns, first = columns_of(metrics), headline(metrics)
    heads = [[column.title, *(["x teacher"] if name == first else [])] for name, column in columns.items()]
    table = _table("stage", *(head for group in heads for head in group), "time")
    teacher = metrics.stages[0].values
    for stage in metrics.stages:
        cells = []
        for name, value in stage.values.items():
            cells.append(figure(value, columns[name].unit))
            if name == first:
                cells.append(ratio(value, teacher[name]) or NOTHING)
        table.add_row(stage.stage, *cells, f"{stage.seconds:.0f} s")
    return table


def search_table(found: SearchResult) -> Table:
    """The shortlist of a search: what each set is estimated to harm and to cost, and what it was worth when finetuned."""
    column = found.columns[found.metric]
    table = _table("", "found as", "edits", "estimated harm", *found.budget, column.title)
    costs = [figure(100.0, "%") for _ in found.budget]
    table.add_row("", "teacher", "none", NOTHING, *costs, figure(found.teacher.get(found.metric), column.unit))
    rules = {option.key: option for option in found.candidates}
    for number, each in enumerate(found.shortlist):
        shares = [f"{100 * each.cost[name] / limited.teacher:.1f} %" for name, limited in found.budget.items()]
        value = figure(each.metrics.get(found.metric), column.unit)
        edits = _by_rule([rules[key] for key in each.candidates])
        table.add_row("*" if number == found.chosen else "", each.why, edits, f"{each.harm:.3g}", *shares, value)
    return table


def _by_rule(options: Sequence[Option]) -> str:
    """The layers of each rule, by its number where several have one name: `ReplaceAttention 1, 3; DropBlocks 5`."""
    layers: dict[tuple[str, str], list[str]] = {}
    for option in options:
        number = option.key.partition("-")[0]
        layers.setdefault((number, option.rule), []).append("outside" if option.layer is None else str(option.layer))
    return "; ".join(f"{rule} {', '.join(numbers)}" for (_, rule), numbers in layers.items())


def comparison_table(comparison: Comparison) -> Table:
    """A row for each group of runs: what was measured of its last student, and what differs in its recipe."""
    columns, first = comparison.columns, comparison.first
    heads = [[column.title, *(["x teacher"] if name == first else [])] for name, column in columns.items()]
    table = _table("run", "seeds", "stage", *(head for group in heads for head in group), "differs")
    for group in comparison.groups:
        cells = []
        for name, column in columns.items():
            cells.append(spread_words(group.at(group.stage, name), column.unit))
            if name == first:
                cells.append(spread_words(group.against_teacher(group.stage, name), ""))
        seeds = " ".join(str(member.metrics.seed) for member in group.members)
        listed = [f"{path}={value}" for path, value in group.differs.items()]
        more = [f"and {len(listed) - LISTED} more"] if len(listed) > LISTED else []
        differs = "\n".join([*listed[:LISTED], *more])
        table.add_row(group.name, seeds, group.stage or NOTHING, *cells, differs)
    return table


def plan_view(plan: Plan) -> Group:
    """Edits, skipped sites and totals of a plan."""
    edits = _table("layer", "edit", "from", "to", "params", "FLOPs")
    for edit in plan.edits:
        sizes = change(edit.params), change(edit.flops)
        edits.add_row(_layer(edit.layer), edit.path, edit.replaced, operator_words(edit), *sizes)
    edits.add_section()
    edits.add_row("", "whole model", "", "", change(plan.total.params), change(plan.total.flops))
    edits.add_row("", "memory of its weights", "", "", change(plan.total.memory, "B"), "")
    parts: list[Table | Text] = [edits]
    if plan.skipped:
        parts.append(_skipped(plan.skipped))
    parts += [Text(f"conflict: {conflict}", style="bold red") for conflict in plan.conflicts]
    return Group(*parts)


def memory_view(memory: Memory) -> Group:
    """What each stage takes, and what to switch on where that is too much."""
    if memory.unknown is not None:
        return Group(Text(f"memory: not known; a step cannot be rehearsed ({memory.unknown})"))
    kinds = ("weights", "gradients", "moments", "average", "activations", "update")
    table = _table("stage", *kinds, "peak memory")
    lines: list[Table | Text] = [table]
    for need in memory.needs:
        of = need.memory
        table.add_row(of.stage, *(f"{count(getattr(of, kind))}B" for kind in kinds), f"{count(of.total)}B")
        if of.total > memory.available:
            steps = "; ".join(f"{of.stage}.{option}: {count(total)}B" for option, total in need.advice)
            lines.append(Text(f"{of.stage} does not fit; less with {steps or 'a smaller model'}", style="bold red"))
    lines.append(Text(f"{memory.device} has {count(memory.available)}B; PyTorch itself comes on top.", "dim"))
    return Group(*lines)


def operator_tree(graph: ModelGraph) -> Table:
    """The modules and operators of a model as a tree, blocks that are alike once, with the whole model last."""
    table = _table("operator", "role", "class", "in", "out", "params", "FLOPs")
    top = module_tree(graph.scopes)
    for guides, entry in _rows(top.children):
        name = Text.assemble((guides, "dim"), entry.name, (f" ({entry.count} x)" if entry.count > 1 else "", "bold"))
        role = entry.operator.role.replace("_", "-") if entry.operator else ""
        shapes = (_shape(entry.operator.in_shape), _shape(entry.operator.out_shape)) if entry.operator else ("", "")
        counts = (_count_or_blank(entry.params), _count_or_blank(entry.flops))
        table.add_row(name, role, entry.module_class, *shapes, *counts)
    table.add_section()
    table.add_row("whole model", "", top.module_class, "", "", count(top.params), count(top.flops))
    return table


def _rows(entries: Sequence[Entry], guides: str = "") -> Iterator[tuple[str, Entry]]:
    """Every entry with the lines that lead to it, parents first."""
    for number, entry in enumerate(entries, 1):
        is_last = number == len(entries)
        yield guides + ("└ " if is_last else "├ "), entry
        yield from _rows(entry.children, guides + ("  " if is_last else "│ "))


def _count_or_blank(number: int) -> str:
    return count(number) if number else ""


def bench_table(figures: Mapping[str, Mapping[str, float]]) -> Table:
    """Latency of teacher and student by batch size, in milliseconds, and how many times faster the student is."""
    table = _table("batch", "", "teacher", "student", "speed-up")
    for batch, times in figures.items():
        for how, part in (("", ""), ("compiled", "_compiled")):
            if f"teacher{part}_ms" in times:
                teacher, student = times[f"teacher{part}_ms"], times[f"student{part}_ms"]
                table.add_row(batch, how, f"{teacher:.2f} ms", f"{student:.2f} ms", f"{teacher / student:.2f} x")
    return table


def difference_view(found: Difference, a: str, b: str) -> Group:
    """What differs from the model called `a` to that called `b`."""
    parts = _table("", "module", a, b, "params")
    for part in found.removed:
        parts.add_row("-", part.path, part.module_class, "", f"-{count(part.params)}", style="red")
    for part in found.added:
        parts.add_row("+", part.path, "", part.module_class, f"+{count(part.params)}", style="green")
    for old, new in found.changed:
        params = change(Change(before=old.params, after=new.params))
        parts.add_row("~", old.path, old.module_class, new.module_class, params, style="yellow")
    parts.add_section()
    params, flops = (change(Change(before=x, after=y)) for x, y in (found.params, found.flops))
    parts.add_row("", "whole model", "", "", params)
    parts.add_row("", "FLOPs of a forward", "", "", flops)
    if found.is_empty:
        return Group(Text(f"{a} and {b} have the same architecture"), parts)
    if not found.flow:
        return Group(parts)
    flow = _table("in", "call", f"reads in {a}", f"in {b}")
    for each in found.flow:
        flow.add_row(each.scope or "the model", each.call, ", ".join(each.before), ", ".join(each.after))
    return Group(parts, flow)


def kernel_tables(kernels: Sequence[Kernel], devices: Sequence[Device]) -> Group:
    """The optional kernels, and which one each operator would use on the devices at hand."""
    known = _table("kernel", "package", "version", "serves")
    for each in kernels:
        version = Text(each.version) if each.version else Text("not installed", "dim")
        known.add_row(each.name, each.package, version, ", ".join(map(words, each.serves)) or each.note)
        if each.serves and each.note:
            known.add_row("", "", "", Text(each.note, "dim"))
    used = _table("operator", *(f"{each.name}, {each.dtype}" for each in devices))
    for operator in devices[0].used:
        used.add_row(words(operator), *(each.used[operator] for each in devices))
    return Group(known, used, Text("torch is the plain PyTorch form, which is always there.", "dim"))


def operator_words(edit: Edit) -> str:
    """The new operator as one would write it in a recipe, e.g. `HyenaX(kernel=4)`."""
    return ", ".join(dict.fromkeys(map(_written, edit.operators))) or edit.rule


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_written, value))}{',' if len(value) == 1 else ''})"
    if not isinstance(value, OperatorConfig):
        return repr(value)
    fields = {name: given for name, given in value if name != "kind" and given is not None}
    if fields.get("backend") == "auto":
        del fields["backend"]
    return f"{type(value).__name__}({', '.join(f'{name}={_written(each)}' for name, each in fields.items())})"


def change(counts: Change, unit: str = "") -> str:
    """A count before and after, with the difference in percent."""
    if counts.before == counts.after:
        return count(counts.before) + unit
    percent = f" ({100 * (counts.after / counts.before - 1):+.2f} %)" if counts.before else ""
    return f"{count(counts.before)}{unit} -> {count(counts.after)}{unit}{percent}"


def _skipped(skipped: tuple[Skipped, ...]) -> Table:
    table = _table("layer", "skipped", "why")
    for each in skipped:
        table.add_row(_layer(each.layer), each.path, each.reason)
    return table


def _layer(number: int | None) -> str:
    return "" if number is None else str(number)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold", no_wrap=first == "layer")
    texts = {"edit", "skipped", "role", "class", "from", "to", "why", "in", "out", "package", "version", "serves"}
    texts |= {"stage", "differs", "edits", "found as"}
    for name in others:
        table.add_column(name, justify="left" if name in texts else "right", overflow="fold")
    return table
