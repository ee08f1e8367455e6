"""The loss of a student that imitates its teacher: the prediction, and the output of every block.

Block outputs say at each depth what to mend, where the prediction alone says it only at the end; CLEAR (arXiv 2412.16112)
and LinFusion (arXiv 2409.02097) train linear-attention students so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import networkx as nx
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
Blocks = Mapping[str, str]
"""The paths of blocks, each with a name; those have one name that are one module in the teacher or in the student."""


class Imitation:
    """Compares what a student gives with what its teacher gives, each over the variance of the teacher's.

    The variances are those of one batch, so that a loss does not depend on what else is in its forward.

    Args:
        teacher: only read.
        blocks: those whose outputs are compared, see `blocks_to_imitate`.
        batch: what the variances are measured on; None takes all for 1.
    """

    def __init__(self, teacher: nn.Module, blocks: Blocks, batch: Sequence[Forward] | None) -> None:
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
    """Collects the tensors that blocks return, by name and number, over all calls of blocks of that name.

    A block may return several, and be called several times: by one path, or by each path that it has. The number is told
    together with how many there are, as in "blocks.0.1/4"; so where a student calls a block more often than its teacher,
    and which call is whose cannot be told, they have nothing in common.

    The hooks stay until `close`, as compiled code sees only those that were there before it.

    Args:
        model: whose blocks.
        blocks: which.
    """

    def __init__(self, model: nn.Module, blocks: Blocks) -> None:
        self._returned: dict[str, list[Tensor]] | None = None
        places = model.named_modules(remove_duplicate=False)
        modules = {module: blocks[path] for path, module in places if path in blocks}
        self._hooks = [module.register_forward_hook(self._hook(name)) for module, name in modules.items()]

    def _hook(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
            if self._returned is not None:
                self._returned.setdefault(name, []).extend(tensors_in(output))

        return keep

    @contextmanager
    def open(self) -> Iterator[Outputs]:
        """Collects while the block runs; what it gives is filled when the block ends."""
        found: Outputs = {}
        self._returned = {}
        try:
            yield found
            for name, tensors in self._returned.items():
                found |= {f"{name}.{number}/{len(tensors)}": tensor for number, tensor in enumerate(tensors)}
        finally:
            self._returned = None

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()


def blocks_to_imitate(teacher: nn.Module, student: nn.Module, inputs: dict[str, Any]) -> Blocks:
    """The teacher's blocks, wherever it keeps them, of which the student's give what they give.

    Raises:
        TraceError: the teacher cannot be traced on `inputs`.
    """
    return imitable(trace(teacher, inputs), student)


def imitable(graph: ModelGraph, student: nn.Module) -> Blocks:
    """The same of a teacher that is traced."""
    rewired, places = rewired_modules(student), nx.Graph()
    for model in (graph.model, student):
        places.add_edges_from((path, module) for path, module in model.named_modules(remove_duplicate=False))
    blocks: dict[str, str] = {}
    for path in graph.layers:
        together = nx.node_connected_component(places, path)
        if rewired.isdisjoint(together):
            blocks[path] = next((blocks[other] for other in blocks if other in together), path)
    return blocks


def rewired_modules(student: nn.Module) -> set[str]:
    """Paths of the modules whose calls an edit has rewired: what they give is not what the teacher's give."""
    record = record_of(student)
    return {path for edit in record.edits for path in edit.claims.calls} if record else set()
