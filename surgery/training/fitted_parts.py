"""What of an operator its result is linear in, and the least-squares problem for the best values; see `fit`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from surgery.parallel.group import add_up, from_first
from surgery.parallel.whole import divided_like, whole
from surgery.pipelines.tree import tensors_in
from surgery.training.distil import Site

RIDGE = 1e-6
"""What draws a solution to the weights that are there, relative to the mean square of a feature."""
ROWS = 8192
"""Tokens, or numbers, that are taken to double precision at a time."""
FEW = 64
"""The most weights of a site that are fitted one by one, as each costs a forward of the operator."""
LINEAR = 1e-3
"""The largest share by which a change may fail to double, for single precision."""

Values = list[tuple[Tensor, Tensor]]
"""Weights, and what they are to be."""


class Part(Protocol):
    """Some weights of a site that its result is linear in."""

    def see(self, site: Site, counts: bool) -> None:
        """Take in the activations that the teacher has just had at the site, or only which weights there are."""

    def solved(self) -> Values:
        """The best values."""


class Sums:
    """The normal equations of a linear problem, of which one row or more is added at a time."""

    def __init__(self, unknowns: int, outputs: int, device: torch.device) -> None:
        self._xx = torch.zeros(unknowns, unknowns, dtype=torch.float64, device=device)
        self._xy = torch.zeros(unknowns, outputs, dtype=torch.float64, device=device)

    def add(self, x_RU: Tensor, y_RO: Tensor, counts: bool) -> None:
        """Rows, as float64; nothing, unless they count."""
        self._xx.addmm_(x_RU.T, x_RU, alpha=counts)
        self._xy.addmm_(x_RU.T, y_RO, alpha=counts)

    def solution(self) -> Tensor:
        """The unknowns (U, O), drawn to zero by the ridge; the rows are those of all processes."""
        add_up([self._xx, self._xy])
        ridge = RIDGE * self._xx.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        found: Tensor = torch.linalg.solve(self._xx + ridge * torch.eye(len(self._xx)).to(self._xx), self._xy)
        return found


class LastLinear:
    """The linear maps whose outputs are a site's results; see `Part`."""

    def __init__(self) -> None:
        self._sums: dict[nn.Linear, Sums] = {}

    def see(self, site: Site, counts: bool) -> None:
        """See `Part`."""
        with linear_calls() as calls:
            new, old = site.lesson.outcome()
        for result, target in zip(tensors_in(new), tensors_in(old), strict=True):
            same = (call for call in reversed(calls) if call[2].numel() == result.numel())
            for linear, x, y in same:
                if torch.equal(y.reshape(result.shape), result):
                    self._add(linear, x.flatten(0, -2), target.reshape(-1, linear.out_features), counts)
                    break

    def _add(self, linear: nn.Linear, x_RC: Tensor, target_RD: Tensor, counts: bool) -> None:
        """Rows of inputs, with a one for the bias, and what the outputs still lack."""
        unknowns = linear.in_features + (linear.bias is not None)
        sums = self._sums.setdefault(linear, Sums(unknowns, linear.out_features, x_RC.device))
        weight, bias = (None if w is None else whole(w).double() for w in (linear.weight, linear.bias))
        assert weight is not None
        for x, target in zip(torch.split(x_RC, ROWS), torch.split(target_RD, ROWS), strict=True):
            x = x.double()
            lacking = target.double() - F.linear(x, weight, bias)
            sums.add(x if bias is None else F.pad(x, (0, 1), value=1.0), lacking, counts)

    def solved(self) -> Values:
        """See `Part`."""
        found: Values = []
        for linear, sums in self._sums.items():
            change_UD = sums.solution()
            found.append(_changed(linear.weight, change_UD[: linear.in_features].T))
            if linear.bias is not None:
                found.append(_changed(linear.bias, change_UD[-1]))
        return found


@contextmanager
def linear_calls() -> Iterator[list[tuple[nn.Linear, Tensor, Tensor]]]:
    """Every call of a plain linear layer inside the block, but for recordings: the layer, its input and its output."""
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def see(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        if not isinstance(module, nn.Linear) or type(module).forward is not nn.Linear.forward:
            return  # what a subclass does with its weight is its own matter
        if module.weight.is_floating_point() and args and isinstance(out, Tensor) and not out.is_meta:
            calls.append((module, args[0], out))

    hook = register_module_forward_hook(see)
    try:
        yield calls
    finally:
        hook.remove()


class FewWeights:
    """Small parameters that a site's result is linear in, such as gates; see `Part`."""

    def __init__(self) -> None:
        self._weights: list[nn.Parameter] | None = None
        self._sums: Sums | None = None

    def see(self, site: Site, counts: bool) -> None:
        """See `Part`."""
        new, old = site.lesson.outcome()
        start, target = (torch.cat([t.flatten() for t in tensors_in(each)]) for each in (new, old))
        drawn = torch.Generator().manual_seed(0)
        rows = torch.randint(len(start), (min(ROWS, len(start)),), generator=drawn).to(start.device)

        def changed() -> Tensor:
            """How the result differs from that with the weights as they are."""
            made = torch.cat([t.flatten() for t in tensors_in(site.lesson.outcome()[0])])
            return (made - start)[rows].double()

        if self._weights is None:
            candidates = _small(site)
            found = from_first([_is_linear_in(weight, changed) for weight in candidates])
            self._weights = [weight for weight, is_linear in zip(candidates, found, strict=True) if is_linear]
        columns = [column for weight in self._weights for column in _columns(weight, changed)]
        if columns:
            self._sums = self._sums or Sums(len(columns), 1, start.device)
            self._sums.add(torch.stack(columns, 1), (target - start)[rows].double().unsqueeze(1), counts)

    def solved(self) -> Values:
        """See `Part`."""
        if self._sums is None or not self._weights:
            return []
        changes = torch.split(self._sums.solution()[:, 0], [weight.numel() for weight in self._weights])
        pairs = zip(self._weights, changes, strict=True)
        return [_changed(weight, change.view(weight.shape)) for weight, change in pairs]


def _changed(weight: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """A weight, and what it is with `change` added."""
    return weight, whole(weight) + change.to(weight.dtype)


def _small(site: Site) -> list[nn.Parameter]:
    """The smallest parameters of a site, no more than `FEW` weights in all."""
    weights = [p for module in site.lesson.modules for p in module.parameters() if p.is_floating_point()]
    order = sorted(dict.fromkeys(weights), key=lambda weight: weight.numel())
    totals = itertools.accumulate(weight.numel() for weight in order)
    return [weight for weight, total in zip(order, totals, strict=True) if total <= FEW]


def _is_linear_in(weight: nn.Parameter, changed: Callable[[], Tensor]) -> bool:
    """Whether twice the change of `weight` changes the result, and twice as much."""
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight.dtype)
    with _added(weight, change):
        once = changed()
    with _added(weight, 2 * change):
        twice = changed()
    return bool(once.norm() > 0 and (twice - 2 * once).norm() < LINEAR * once.norm())


def _columns(weight: nn.Parameter, changed: Callable[[], Tensor]) -> Iterator[Tensor]:
    """What one more in each entry of `weight` changes."""
    for entry in range(weight.numel()):
        one = torch.zeros(weight.shape, dtype=weight.dtype)
        one.view(-1)[entry] = 1.0
        with _added(weight, one):
            yield changed()


@contextmanager
def _added(weight: nn.Parameter, change: Tensor) -> Iterator[None]:
    """Adds `change`, which all processes hold, to `weight` inside the block."""
    before = weight.clone()
    weight.add_(divided_like(change, weight))
    try:
        yield
    finally:
        weight.copy_(before)
