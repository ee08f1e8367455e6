"""Standing in for a pipeline's denoisers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from surgery.pipelines.drive import Forward, Listener, Step
from surgery.pipelines.opening import Opening
from surgery.pipelines.tree import Arguments, Lent, prediction, tensors_in


class Stub(Listener):
    """Denoisers are not run: their outputs have the form of the first step's, and contents that a subclass gives.

    What runs before the loop, such as a text encoder, runs. So does, once, an expert that the first step did not need.
    """

    replaces_latents = True

    def __init__(self, first: Opening) -> None:
        self._outputs, self._rows = dict(first.outputs), first.rows
        self._calls, self._in_loop = 0, False
        self._filled: dict[tuple[str, int], tuple[Sequence[Tensor], Lent]] = {}

    def predictions(self) -> Sequence[Tensor]:
        """What each branch of guidance predicts in this step, flat; a single one serves all. The same list: the same."""
        raise NotImplementedError

    def forward(self, model: str, forward: Forward, arguments: Arguments) -> Any:
        """The stub output of a denoiser."""
        if model not in self._outputs:
            output = forward(**arguments)
            if not self._in_loop:
                return output
            self._outputs[model] = output
        call = min(self._calls, len(self._rows) - 1)
        self._calls += 1
        given = self.predictions()
        last = self._filled.get((model, call))
        if last is None or last[0] is not given:
            last = self._filled[model, call] = given, Lent(partial(self._fill, self._outputs[model], call, given))
        return last[1]()

    def step(self, seen: Step, previous: Tensor) -> Tensor:  # noqa: ARG002
        """Count the calls of the next step from 0."""
        self._calls, self._in_loop = 0, True
        return previous

    def _fill(self, output: Any, call: int, given: Sequence[Tensor]) -> Any:
        inside = tensors_in(prediction(output))
        first = sum(self._rows[:call])
        rows = [given[(first + row) % len(given)] for row in range(self._rows[call])]
        contents = iter(torch.split_with_sizes(torch.cat(rows), [tensor.numel() for tensor in inside]))

        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if not any(leaf is tensor for tensor in inside):
                return torch.zeros_like(leaf)
            return next(contents).to(leaf).reshape(leaf.shape)

        return pytree.tree_map(fill, output)
