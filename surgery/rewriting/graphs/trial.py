"""Trying a rewiring: its new calls are run on what the matched nodes read, at several sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from surgery.recording.binding import call_of
from surgery.recording.skeleton import skeleton
from surgery.recording.state import own_class
from surgery.rewriting.evaluator import Evaluator
from surgery.rewriting.other_sizes import ToSize, at_each_size, is_mask
from surgery.rewriting.replacement import Call, Copy, New, Rewiring
from surgery.rewriting.site import Site, traced
from surgery.rewriting.trial import Cost, Trial, are_alike, called, require_alike, situation
from surgery.rewriting.values import parse, transposed


def try_rewiring(trial: Trial, site: Site, rewiring: Rewiring) -> Cost:
    """Run the new calls; their results must be like those that they replace.

    Returns:
        What the new modules have, and what all new calls cost.

    Raises:
        RewriteError: a call fails, or a result has another shape or dtype than what it replaces.
    """
    near = trial.near(site)
    key = ("rewiring", rewiring.model_dump_json(), situation(site), None if near is None else near.dtype)
    cost: Cost = trial.once(key, lambda: _tried(trial, site, rewiring, near))
    return cost


def _tried(trial: Trial, site: Site, rewiring: Rewiring, near: nn.Parameter | None) -> Cost:
    def run(resize: ToSize) -> list[Cost]:
        calls = _NewCalls(trial, site, rewiring, resize, near)
        calls.make(rewiring.calls)
        for old, new in rewiring.results.items():
            made, replaced = (transposed(value, parse(new).swapped) for value in (new, old))
            require_alike(site.path, calls.of(made), calls.of(replaced), f"{new} for {old}")
        return calls.costs

    tokens = _tokens(site, rewiring)
    traced, *_ = at_each_size(tokens, run, _takes_any_length(site, rewiring, tokens))
    return Cost(*map(sum, zip(*traced, strict=True))) if traced else Cost(0, 0, 0)


def _takes_any_length(site: Site, rewiring: Rewiring, tokens: tuple[int, ...]) -> bool:
    """Whether it can be tried with other numbers of tokens; how long a mask is then is not known."""
    masked = any(is_mask(value, tokens) for value in _read(site, rewiring)[1:])
    operators = (new.operator for new in rewiring.modules.values() if isinstance(new, New))
    return all(operator.takes_any_length for operator in operators) and not masked


def _tokens(site: Site, rewiring: Rewiring) -> tuple[int, ...]:
    """Batch and tokens of the first that has both: of what the new calls read, or else of what the matched nodes do."""
    shapes = [tuple(value.shape) for value in _read(site, rewiring)]
    shapes += [item.part.in_shape for item in site.items.values()]
    return next((shape for shape in shapes if len(shape) >= 3), ())


def _read(site: Site, rewiring: Rewiring) -> list[torch.Tensor]:
    """What the new calls read of the matched nodes, as traced."""
    values = [value for call in rewiring.calls for value in call.arguments.values() if parse(value).name in site.items]
    leaves = (leaf for value in values for leaf in pytree.tree_leaves(_traced(site).of(value)))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _traced(site: Site) -> _Matched:
    """Matched values as traced."""
    return _Matched(site, lambda values: values)


class _Matched(Evaluator):
    """Matched values as traced, at another size."""

    def __init__(self, site: Site, resize: ToSize) -> None:
        super().__init__()
        self._site, self._resize = site, resize

    def of(self, value: str) -> Any:
        """What `value` is. Axes are put in order first: a size is told by where it stands."""
        if parse(value).swapped is None or parse(value).name in self.made:
            return super().of(value)
        return self._resize(Evaluator.of(_traced(self._site), value))

    def result(self, name: str) -> Any:
        """Meta tensors like the traced ones."""
        return self._resize(self._site[name].result)

    def arguments(self, name: str) -> dict[str, Any]:
        """Meta tensors like the traced ones."""
        return {key: self._resize(traced(value)) for key, value in self._site[name].bound.items()}

    def where(self, name: str) -> str:
        """Its path."""
        return self._site[name].path if name in self._site.items else self._site.path

    def call(self, call: Call, given: dict[str, Any]) -> Any:
        """None: nothing is new here."""
        raise NotImplementedError


class _NewCalls(_Matched):
    """The new calls, run at one size.

    Attributes:
        costs: of the calls.
    """

    def __init__(self, trial: Trial, site: Site, rewiring: Rewiring, resize: ToSize, near: nn.Parameter | None) -> None:
        super().__init__(site, resize)
        self._trial, self._rewiring, self._near = trial, rewiring, near
        self.costs: list[Cost] = []

    def call(self, call: Call, given: dict[str, Any]) -> Any:
        """What the new module gives, or one that is there already."""
        new = self._rewiring.modules.get(call.module)
        if not isinstance(new, New):
            return self._again(call, new.of if isinstance(new, Copy) else call.module, given, isinstance(new, Copy))
        path, arguments = self._site.path, self._like(call, given)
        module = self._trial.module(path, new, self._near)
        result, cost = self._trial.run(path, new, module, (), arguments)
        self.costs.append(cost)
        return result

    def _again(self, call: Call, name: str, given: dict[str, Any], is_copy: bool) -> Any:
        """What a module that is there already, or a copy of it, gives; run only if its arguments are of other kinds."""
        item = self._site[name]
        self.costs.append(Cost(item.part.params * is_copy, item.part.flops, item.part.flops_mixing))
        bound = self.arguments(name)
        if call.like == name and all(are_alike(value, bound.get(key)) for key, value in given.items()):
            return self._resize(item.node.meta["val"])
        args, kwargs = call_of(own_class(item.module), self._like(call, given), len(item.node.args))
        return called(item.path, item.part.module_class, skeleton(item.module), args, kwargs)

    def _like(self, call: Call, given: dict[str, Any]) -> dict[str, Any]:
        return given if call.like is None else {**self.arguments(call.like), **given}
