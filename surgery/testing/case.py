"""A case: rules, a model and inputs, which the laws are about."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from surgery.errors import MatchError
from surgery.graph import ModelGraph
from surgery.rewriting import Plan, Rule, plan
from surgery.rewriting.commit import commit
from surgery.tracing import trace

Inputs = Mapping[str, Any]


class Case:
    """What one law is tried on; trace, plan and student are made once, and no law changes them.

    Attributes:
        rules: applied together.
        model: the teacher.
        inputs: which it is traced on.
        others: inputs of other sizes.
    """

    def __init__(self, rules: Rule | Sequence[Rule], model: nn.Module, inputs: Inputs, *others: Inputs) -> None:
        self.rules = (rules,) if isinstance(rules, Rule) else tuple(rules)
        self.model, self.inputs, self.others = model, inputs, others

    @property
    def refusal(self) -> str | None:
        """Why the rules do nothing to this model: they match nothing, or conflict."""
        try:
            conflicts = self.plan.conflicts
        except MatchError as error:
            return str(error)
        return str(conflicts[0]) if conflicts else None

    @cached_property
    def graph(self) -> ModelGraph:
        """The traced teacher."""
        return trace(self.model, self.inputs)

    @cached_property
    def plan(self) -> Plan:
        """What the rules do to it."""
        return plan(self.graph, self.rules)

    @cached_property
    def student(self) -> nn.Module:
        """The outcome."""
        return commit(self.graph, self.plan.edits)

    @cached_property
    def student_graph(self) -> ModelGraph:
        """The traced student."""
        return trace(self.student, self.inputs)

    def double(self) -> Case:
        """The same in float64."""
        inputs = [pytree.tree_map(_double, each) for each in (self.inputs, *self.others)]
        return Case(self.rules, copy.deepcopy(self.model).double(), *inputs)

    def __repr__(self) -> str:
        model = getattr(self.model, "spec", type(self.model).__name__)
        shapes = [pytree.tree_map(_shape, dict(each)) for each in (self.inputs, *self.others)]
        return f"Case({list(self.rules)}, {model}, {', '.join(map(str, shapes))})"


def _double(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else value
