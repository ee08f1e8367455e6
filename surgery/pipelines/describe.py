"""A wiring for people, and as plain data."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from torch import Tensor

from surgery.errors import WiringError
from surgery.pipelines.affine import Affine
from surgery.pipelines.parts import Schedule
from surgery.pipelines.process import process_of
from surgery.pipelines.table import Table
from surgery.pipelines.tree import leaves
from surgery.pipelines.wiring import Wiring


def wiring_plain(wiring: Wiring) -> dict[str, Any]:
    """Where each argument comes from, and what holds for all, as plain data."""
    arguments = []
    for number, condition in enumerate(wiring.conditions):
        for path, leaf in leaves(condition.arguments).items():
            shape, what = _explained(wiring, number, path, leaf)
            along = wiring.batching.dims.get(path, "list" if path.rpartition(".")[0] in wiring.batching.lists else None)
            own = {"argument": path, "shape": shape, "is": what, "samples_along": along}
            arguments.append({"forward": _branch_name(wiring, number), **own})
    return {
        "pipeline": wiring.pipeline,
        "latents": wiring.shape,
        "scheduler": wiring.schedule.scheduler,
        "positions": len(wiring.schedule),
        "process": _process(wiring.schedule),
        "arguments": arguments,
        "model_output": f"{_factor(wiring.read.scale)}prediction{_guidance(wiring)}",
        "one_by_one": wiring.batching.odd,
    }


def wiring_view(wiring: Wiring) -> RenderableType:
    """A table of where each argument comes from, below what holds for all."""
    plain, table = wiring_plain(wiring), RichTable("forward", "argument", "shape", "what it is", "samples along")
    for number, row in enumerate(plain["arguments"]):
        if number and row["forward"] != plain["arguments"][number - 1]["forward"]:
            table.add_section()
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    return Group(
        f"{plain['pipeline']}: latents {plain['latents']}",
        f"{plain['scheduler']} over {plain['positions']} positions: {plain['process']}",
        table,
        f"model output: {plain['model_output']}",
        *(f"samples run one by one: {reason}" for reason in plain["one_by_one"]),
    )


def _branch_name(wiring: Wiring, number: int) -> str:
    branch = wiring.branches[number]
    role = {wiring.conditional: " conditional", wiring.unconditional: " unconditional"}.get(number, "")
    return f"{'/'.join(dict.fromkeys(branch.models))}{role}"


def _explained(wiring: Wiring, number: int, path: str, leaf: Any) -> tuple[tuple[int, ...] | None, str]:
    branch = wiring.branches[number]
    if path in branch.latents:
        affine = branch.latents[path]
        return tuple(affine.shape), _from_latents(affine)
    if path in branch.times:
        table = branch.times[path]
        return tuple(table.shape), _from_time(table, wiring.schedule)
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), f"condition, {str(leaf.dtype).removeprefix('torch.')}"
    return None, repr(leaf)


def _from_latents(affine: Affine) -> str:
    fixed = int(affine.fixed.sum())
    moved = not torch.equal(affine.index[~affine.fixed], torch.arange(affine.index.numel() - fixed).int())
    order = ", in another order" if moved else ""
    besides = f", {fixed} elements of the condition" if fixed else ""
    return f"{_factor(affine.scale)}latents{order}{besides}"


def _factor(scale: Tensor) -> str:
    if scale.ndim:
        return "scaled "
    return {1.0: "", -1.0: "-"}.get(float(scale), f"{float(scale):g} * ")


def _from_time(table: Table, schedule: Schedule) -> str:
    times, sigmas = schedule.timesteps, schedule.sigmas
    known = {"t": times, "t / 1000": times / 1000, "1 - t / 1000": 1 - times / 1000}
    known |= {"sigma": sigmas, "1 - sigma": 1 - sigmas} if sigmas is not None else {}
    if table.values.numel() != len(times):
        return "by position"
    values = table.values.double().reshape(-1).cpu()
    rounding = torch.finfo(table.values.dtype).eps if table.values.is_floating_point() else 0.0
    for name, formula in known.items():
        if torch.allclose(values, formula, rtol=2 * rounding, atol=2 * rounding):
            return name
    return "by position"


def _guidance(wiring: Wiring) -> str:
    if len(wiring.branches) == 1:
        return ", no guidance"
    if not wiring.linear:
        return ", guidance is no sum by weights"
    return ", guidance " + ", ".join(f"{branch.weight:+.3g}" for branch in wiring.branches)


def _process(schedule: Schedule) -> str:
    try:
        process = process_of(schedule)
    except WiringError as error:
        return str(error)
    return f"{process.kind}, predicts {process.predicts}"
