"""Whether the tensors of an artifact are the weights of a model, asked before they are written, and before read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from surgery.artifact.weights import Slot


def misfits(fresh: nn.Module, saved: Mapping[str, Slot]) -> Iterator[str]:
    """Why `saved` are not every weight of `fresh` in its shape, and nothing else but buffers; a line for each reason."""
    weights = {name: tensor for name, tensor in fresh.state_dict().items() if isinstance(tensor, Tensor)}
    known = {**dict(fresh.named_buffers(remove_duplicate=False)), **weights}
    yield from (f"its weights have no {name}" for name in weights if name not in saved)
    for name, slot in saved.items():
        if name not in known:
            yield f"its weights have {name}, which a fresh model has not"
        elif tuple(known[name].shape) != slot.shape:
            yield f"{name} has the shape {slot.shape}, and {tuple(known[name].shape)} in a fresh model"
        elif known[name].is_floating_point() != slot.dtype.is_floating_point:
            yield f"{name} has the dtype {slot.dtype}, and {known[name].dtype} in a fresh model"
