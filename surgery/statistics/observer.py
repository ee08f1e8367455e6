"""Running a model so that its figures add up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgery.errors import GuardError
from surgery.recording.copying import copied
from surgery.rewriting.commit import replaced_in
from surgery.statistics.layers import Layers
from surgery.statistics.observed import observed
from surgery.statistics.points import Points
from surgery.statistics.sums import Sums
from surgery.tracing import trace

KEPT = 4
"""Traced forms of a model that are kept, one for inputs of each size: guidance and several resolutions take turns."""


@dataclass(frozen=True)
class _Traced:
    """A traced model with points in it, and what its layers are made of."""

    layers: Layers
    run: nn.Module


class Observer:
    """Runs a model, and adds up what is seen in it.

    The model is traced on the inputs that it is called with, once for each size of them. What is held besides a few of
    these traces is two numbers for each figure, however many samples and steps there are.

    Args:
        model: stays as it is; its weights are shared.
        window: k of the locality, see `surgery.statistics.attention`.

    Attributes:
        sums: of all forwards so far.
        forwards: how many there were.
    """

    def __init__(self, model: nn.Module, window: int | None = None) -> None:
        # Of its own: whoever drives a pipeline may put another forward on the model.
        self._model = copied(model, lambda tensor: tensor, replaced_in(model))
        self._window = window
        self._traced: OrderedDict[Hashable, _Traced] = OrderedDict()
        self.sums, self.forwards = Sums(), 0

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        """What the model gives for these keywords.

        Raises:
            TraceError: the model cannot be traced.
            AnalysisError: it gives no numbers.
        """
        sizes = tuple(tuple(x.shape) for x in pytree.tree_leaves(dict(arguments)) if isinstance(x, Tensor))
        if sizes not in self._traced:
            self._trace(sizes, arguments)
        try:
            output = self._traced[sizes].run(**arguments)
        except GuardError:  # what is no tensor is not what it was
            self.sums.drop()
            self._trace(sizes, arguments)
            output = self._traced[sizes].run(**arguments)
        self._traced.move_to_end(sizes)
        self.sums.keep()
        self.forwards += 1
        return output

    def _trace(self, sizes: Hashable, arguments: Mapping[str, Any]) -> None:
        graph = trace(self._model, arguments)
        points = Points(graph, arguments, self.sums, self._window)
        self._traced[sizes] = _Traced(Layers.of(graph), observed(graph, points))
        while len(self._traced) > KEPT:
            self._traced.popitem(last=False)

    def figures(self) -> dict[str, list[dict[str, Any]]]:
        """Those of the `layers`, and of the operators `outside` of them, see `Layers`."""
        newest, found = next(reversed(self._traced.values())).layers, self.sums.figures()
        return {"layers": newest.figures(found), "outside": newest.outside(found)}

    def layers(self) -> list[dict[str, Any]]:
        """The figures of each layer, see `Layers.figures`."""
        return self.figures()["layers"]
