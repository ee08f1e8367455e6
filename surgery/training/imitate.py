"""The loss of a student that imitates its teacher: the prediction, and the output of every block.

Block outputs say at each depth what to mend, where the prediction alone says it only at the end; CLEAR (arXiv 2412.16112)
and LinFusion (arXiv 2409.02097) train linear-attention students so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.graph import ModelGraph
from surgery.parallel.group import add_up
from surgery.pipelines.tree import tensors_in
from surgery.rewriting.commit import record_of
from surgery.tracing import trace
from surgery.training.source import Forward, predict

PREDICTION = "prediction"
SMALLEST = 1e-12
"""A variance that a loss is divided by."""
Outputs = dict[str, Tensor]


class Imitation:
    """Compares what a student gives with what its teacher gives, each over the variance of the teacher's.

    The variances are those of one batch, so that a loss does not depend on what else is in its forward.

    Args:
        teacher: only read.
        blocks: paths of the blocks whose outputs are compared, see `blocks_to_imitate`.
        batch: what the variances are measured on; None takes all for 1.
    """

    def __init__(self, teacher: nn.Module, blocks: Collection[str], batch: Sequence[Forward] | None) -> None:
        self._teacher = teacher
        self._watched = Watched(teacher, blocks)
        self._scales = {} if batch is None else self._variances(batch)

    def _variances(self, batch: Sequence[Forward]) -> dict[str, float]:
        sums: dict[str, Tensor] = {}
        for forward in batch:
            counts = float(forward.share > 0)
            for name, tensor in self.taught(forward.inputs).items():
                exact = tensor.double()
                moments = counts * torch.stack([exact.new_tensor(exact.numel()), exact.sum(), exact.square().sum()])
                sums[name] = sums[name] + moments if name in sums else moments
        add_up([*sums.values()])
        return {
            name: max(float((squares - total**2 / count) / (count - 1)), SMALLEST)
            for name, (count, total, squares) in sums.items()
        }

    @torch.no_grad()
    def taught(self, inputs: dict[str, Any]) -> Outputs:
        """What the teacher gives."""
        with self._watched.open() as found:
            prediction = predict(self._teacher, inputs)
        return {PREDICTION: prediction, **found}

    def errors(self, taught: Outputs, learnt: Outputs) -> tuple[Tensor, Tensor | None]:
        """The relative squared error of the prediction, and the mean of those of all block outputs; scalars."""
        found = {name: self._error(name, learnt[name], taught[name]) for name in taught if name in learnt}
        prediction = found.pop(PREDICTION)
        return prediction, torch.stack(list(found.values())).mean() if found else None

    def _error(self, name: str, actual: Tensor, expected: Tensor) -> Tensor:
        return F.mse_loss(actual.float(), expected.float()) / self._scales.get(name, 1.0)

    def close(self) -> None:
        """Leave the teacher alone."""
        self._watched.close()


class Watched:
    """Collects the tensors that modules return, by path and number; a block may return several.

    The hooks stay until `close`, as compiled code sees only those that were there before it.

    Args:
        model: whose modules.
        paths: of the modules.
    """

    def __init__(self, model: nn.Module, paths: Collection[str]) -> None:
        self._found: Outputs | None = None
        modules = {path: module for path, module in model.named_modules(remove_duplicate=False) if path in paths}
        self._hooks = [module.register_forward_hook(self._hook(path)) for path, module in modules.items()]

    def _hook(self, path: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
            if self._found is not None:
                for number, tensor in enumerate(tensors_in(output)):
                    self._found[f"{path}.{number}"] = tensor

        return keep

    @contextmanager
    def open(self) -> Iterator[Outputs]:
        """Collects while the block runs."""
        found: Outputs = {}
        self._found = found
        try:
            yield found
        finally:
            self._found = None

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()


def blocks_to_imitate(teacher: nn.Module, student: nn.Module, inputs: dict[str, Any]) -> tuple[str, ...]:
    """Paths of the teacher's blocks, wherever it keeps them, of which the student's give what they give.

    Raises:
        TraceError: the teacher cannot be traced on `inputs`.
    """
    return imitable(trace(teacher, inputs), student)


def imitable(graph: ModelGraph, student: nn.Module) -> tuple[str, ...]:
    """The same of a teacher that is traced."""
    rewired = rewired_modules(student)
    return tuple(path for path in graph.layers if path not in rewired)


def rewired_modules(student: nn.Module) -> set[str]:
    """Paths of the modules whose calls an edit has rewired: what they give is not what the teacher's give."""
    record = record_of(student)
    return {path for edit in record.edits for path in edit.claims.calls} if record else set()
