"""Running a model so that its figures add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from surgery.errors import GuardError
from surgery.recording.copying import copied
from surgery.rewriting.commit import replaced_in
from surgery.statistics.instrument import instrumented
from surgery.statistics.layers import Layers
from surgery.statistics.points import Points
from surgery.statistics.sums import Sums
from surgery.tracing import trace

KEPT = 8
"""Traced forms of a model that are kept: with guidance, several texts and resolutions they take turns."""


@dataclass(frozen=True)
class _Traced:
    """A traced model with points in it, the sizes of its inputs, and what its layers are made of."""

    sizes: tuple[tuple[int, ...], ...]
    layers: Layers
    run: nn.Module


class Observer:
    """Runs a model, and adds up what is seen in it.

    The model is traced on the inputs that it is called with, once for each size of them, and once more where a trace does
    not cover other things in them. What is held besides a few of these traces is two numbers for each figure, however
    many samples and steps there are.

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
        self._traced: list[_Traced] = []
        self.sums, self.forwards = Sums(), 0

    def __call__(self, arguments: Mapping[str, Any]) -> Any:
        """What the model gives for these keywords.

        Raises:
            TraceError: the model cannot be traced.
            AnalysisError: it gives no numbers.
        """
        sizes = tuple(tuple(x.shape) for x in pytree.tree_leaves(dict(arguments)) if isinstance(x, Tensor))
        for traced in [each for each in self._traced if each.sizes == sizes]:
            try:
                return self._run(traced, arguments)
            except GuardError:  # what is no size is not what it was
                self.sums.drop()
        graph = trace(self._model, arguments)
        points = Points(graph, arguments, self.sums, self._window)
        return self._run(_Traced(sizes, Layers.of(graph), instrumented(graph, points)), arguments)

    def _run(self, traced: _Traced, arguments: Mapping[str, Any]) -> Any:
        """What a traced form gives, which is then the first to be tried."""
        output = traced.run(**arguments)
        self._traced = [traced, *(each for each in self._traced if each is not traced)][:KEPT]
        self.sums.keep()
        self.forwards += 1
        return output

    def figures(self) -> dict[str, list[dict[str, Any]]]:
        """Those of the `layers`, and of the operators `outside` of them, see `Layers`."""
        newest, found = self._traced[0].layers, self.sums.figures()
        return {"layers": newest.figures(found), "outside": newest.outside(found)}

    def layers(self) -> list[dict[str, Any]]:
        """The figures of each layer, see `Layers.figures`."""
        return self.figures()["layers"]
