"""The loss of a student that imitates its teacher: the prediction, and the output of every block.

Block outputs say at each depth what to mend, where the prediction alone says it only at the end; CLEAR (arXiv 2412.16112)
and LinFusion (arXiv 2409.02097) train linear-attention students so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.pipelines.tree import tensors_in
from surgery.rewriting.commit import record_of
from surgery.tracing import trace
from surgery.training.source import predict


def imitation_loss(teacher: nn.Module, student: nn.Module, inputs: dict[str, Any], blocks: Collection[str]) -> Tensor:
    """The mean squared error of prediction and block outputs, each over the variance of the teacher's; a scalar.

    The prediction counts as much as all blocks together.

    Args:
        teacher, student: models.
        inputs: keywords of forward.
        blocks: paths of the blocks, see `blocks_to_imitate`.
    """
    with torch.no_grad(), _outputs(teacher, blocks) as taught:
        prediction = predict(teacher, inputs)
    with _outputs(student, blocks) as learnt:
        loss = _relative_error(predict(student, inputs), prediction)
    terms = [_relative_error(learnt[name], taught[name]) for name in taught if name in learnt]
    return loss + torch.stack(terms).mean() if terms else loss


def blocks_to_imitate(teacher: nn.Module, student: nn.Module, inputs: dict[str, Any]) -> tuple[str, ...]:
    """Paths of the teacher's blocks, wherever it keeps them, of which the student's give what they give.

    Raises:
        TraceError: the teacher cannot be traced on `inputs`.
    """
    rewired = rewired_modules(student)
    return tuple(path for path in trace(teacher, inputs).layers if path not in rewired)


def rewired_modules(student: nn.Module) -> set[str]:
    """Paths of the modules whose calls an edit has rewired: what they give is not what the teacher's give."""
    record = record_of(student)
    return {path for edit in record.edits for path in edit.claims.calls} if record else set()


@contextmanager
def _outputs(model: nn.Module, paths: Collection[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the tensors that each of the modules at `paths` returns, by path and number, while the context is open."""
    found: dict[str, Tensor] = {}

    def keep(path: str, output: Any) -> None:
        found.update({f"{path}.{number}": tensor for number, tensor in enumerate(tensors_in(output))})

    hooks = [
        module.register_forward_hook(lambda _m, _i, output, path=path: keep(path, output))
        for path, module in model.named_modules(remove_duplicate=False)
        if path in paths
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _relative_error(actual: Tensor, expected: Tensor) -> Tensor:
    expected = expected.float()
    return F.mse_loss(actual.float(), expected) / expected.var().clamp(min=1e-12)
