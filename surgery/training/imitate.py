"""The loss of a student that imitates its teacher: the prediction, and the output of every block.

Block outputs say at each depth what to mend, where the prediction alone says it only at the end; CLEAR (arXiv 2412.16112)
and LinFusion (arXiv 2409.02097) train linear-attention students so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.rewriting.commit import record_of
from surgery.training.diffusion import predict


def imitation_loss(teacher: nn.Module, student: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The mean squared error of prediction and block outputs, each over the variance of the teacher's; a scalar.

    The prediction counts as much as all blocks together. ``inputs`` are keywords of forward, see ``NoisedBatch``.
    """
    with torch.no_grad(), _block_outputs(teacher) as taught:
        prediction = predict(teacher, inputs)
    with _block_outputs(student) as learnt:
        loss = _relative_error(predict(student, inputs), prediction)
    rewired = rewired_modules(student)
    terms = [_relative_error(learnt[path], taught[path]) for path in taught if path in learnt and path not in rewired]
    return loss + torch.stack(terms).mean() if terms else loss


def rewired_modules(student: nn.Module) -> set[str]:
    """Paths of the modules whose calls an edit has rewired: what they give is not what the teacher's give."""
    record = record_of(student)
    return {path for edit in record.edits for path in edit.claims.calls} if record else set()


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of a transformer by path: the items of the lists that the model itself holds."""
    lists = {name: child for name, child in model.named_children() if isinstance(child, nn.ModuleList)}
    return {f"{name}.{i}": block for name, blocks in lists.items() for i, block in enumerate(blocks)}


@contextmanager
def _block_outputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects the first tensor that each block returns, by path, while the context is open."""
    found: dict[str, Tensor] = {}

    def keep(path: str, output: Any) -> None:
        found[path] = output[0] if isinstance(output, tuple) else output

    hooks = [
        block.register_forward_hook(lambda _m, _i, output, path=path: keep(path, output))
        for path, block in blocks_of(model).items()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _relative_error(actual: Tensor, expected: Tensor) -> Tensor:
    expected = expected.float()
    return F.mse_loss(actual.float(), expected) / expected.var().clamp(min=1e-12)
