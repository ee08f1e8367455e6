"""What every student keeps, checked on tiny models of five families, four blocks deep."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

import surgery
from surgery.rewriting import Rule
from tests.compat import models

FAMILIES = list(models.FAMILIES)


@functools.cache
def graph(name: str) -> surgery.ModelGraph:
    """The traced model, made deeper; not to be changed."""
    small = models.original(name)
    depths = {key: 4 for key in ("num_layers", "num_single_layers") if key in small.config}
    torch.manual_seed(0)
    model = type(small).from_config({**small.config, **depths}).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # so that gradients are those of copies
    return surgery.trace(model, models.inputs(name))


def output(model: nn.Module, name: str, **more: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**models.inputs(name), **more).sample


def check_student(name: str, rules: list[Rule], folder: Path) -> nn.Module:
    """Plan, rewrite, run, train, save, load and undo; the student."""
    traced = graph(name)
    planned, student = surgery.plan(traced, rules), surgery.rewrite(traced, rules)
    assert planned.total.params.after == sum(p.numel() for p in student.parameters())
    after = surgery.trace(student, models.inputs(name))
    assert planned.total.flops.after == after.flops
    now = output(student, name)
    assert now.shape == output(traced.model, name).shape
    assert torch.equal(output(after.module(), name), now)
    assert torch.equal(output(surgery.load(surgery.save(student, folder)), name), now)
    assert_undone(traced.model, surgery.undo(student), name)
    student.train().requires_grad_(True)
    student(**models.inputs(name)).sample.square().mean().backward()
    new = [
        p for edit in planned.edits for path in edit.added.values() for p in student.get_submodule(path).parameters()
    ]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in new)
    return student.eval()


def assert_undone(model: nn.Module, restored: nn.Module, name: str) -> None:
    assert type(restored) is type(model)
    assert restored.state_dict().keys() == model.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(restored.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert torch.equal(output(restored, name), output(model, name))
