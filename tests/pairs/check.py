"""Applies a pair of rules and tries what a student has to be able to do."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import nn

import surgery
from surgery.rewriting import Rule, indices
from surgery.rewriting.commit import record_of
from tests.classes.check import same_bits
from tests.pairs.rules import RULES, Model

Where = Literal["same", "apart"]
Outcome = Literal["together", "in turn", "overlap", ""]


def outcome_of(model: Model, first: str, second: str, where: Where) -> Outcome:
    """How two rules go together, "" if they have no such layers; AssertionError if their student is not sound.

    Args:
        model: to apply them to.
        first, second: names of rules.
        where: both in the same layer, or in two of which, if possible, neither is claimed by both.
    """
    layers = product(model.fitting[first], model.fitting[second])
    tried = [pair for pair in layers if (pair[0] == pair[1]) == (where == "same")]
    in_turn: list[Rule] | None = None
    for pair in tried:
        rules = [RULES[name](indices(layer)) for name, layer in zip((first, second), pair, strict=True)]
        kind = _kind(model, rules)
        if kind == "together":
            require_sound(model, [rules])
            return kind
        in_turn = in_turn or (rules if kind == "in turn" else None)
    if in_turn:
        require_sound(model, [[rule] for rule in in_turn])
        return "in turn"
    return "overlap" if tried else ""


def _kind(model: Model, rules: list[Rule]) -> Outcome:
    conflicts = {conflict.kind for conflict in surgery.plan(model.graph, rules).conflicts}
    return "overlap" if "overlap" in conflicts else "in turn" if conflicts else "together"


def require_sound(model: Model, commits: list[list[Rule]]) -> None:
    """The student of these rewrites, one after the other, runs, is undone, trains, is saved and loaded.

    Raises:
        AssertionError: it does not.
    """
    student = model.module
    for rules in commits:
        student = surgery.rewrite(student, rules, model.inputs)
    given = _output(student, model)
    assert given.isfinite().all(), "not finite"
    assert given.shape == _output(model.module, model).shape, "another shape"
    _require_undone(student, model)
    _train(student, model)
    with TemporaryDirectory() as folder:
        loaded = surgery.load(surgery.save(student, Path(folder)))
    assert same_bits(dict(student.state_dict()), dict(loaded.state_dict())), "loads other weights"
    assert same_bits(_output(student, model), _output(loaded, model)), "computes something else when loaded"


def _require_undone(student: nn.Module, model: Model) -> None:
    original = surgery.undo(student)
    assert same_bits(dict(original.state_dict()), dict(model.module.state_dict())), "undo gives other weights"
    assert same_bits(_output(original, model), _output(model.module, model)), "undo computes something else"


def _train(student: nn.Module, model: Model) -> None:
    """One step in train mode, in which every new parameter has a gradient; back to eval mode."""
    new = dict(_new_parameters(student))
    before = {name: p.detach().clone() for name, p in new.items()}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    student.train()
    torch.manual_seed(0)
    student(**model.inputs).sample.square().mean().backward()
    silent = [name for name, p in new.items() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent, f"no gradient: {silent}"
    optimizer.step()
    student.eval()
    assert not before or any(not p.equal(before[name]) for name, p in new.items()), "nothing was learnt"


def _new_parameters(student: nn.Module) -> list[tuple[str, nn.Parameter]]:
    record = record_of(student)
    assert record is not None
    places = [path for edit in record.edits for path in (*edit.new, *edit.added.values())]
    return [(name, p) for name, p in student.named_parameters() if any(name.startswith(f"{at}.") for at in places)]


def _output(module: nn.Module, model: Model) -> torch.Tensor:
    with torch.no_grad():
        sample: torch.Tensor = module(**model.inputs).sample
    return sample
