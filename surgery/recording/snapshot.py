"""Takes back what a recording did before one of its guards failed, so that another one starts from the same state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from surgery.recording.objects import is_object
from surgery.recording.torch_private import pytree


class Snapshot:
    """Buffers of a module, inputs of a call, and the random number generators, as they are now."""

    def __init__(self, module: nn.Module, inputs: Iterable[Any]) -> None:
        inputs = list(inputs)
        tensors = {id(t): t for t in (*_buffers(module), *inputs) if isinstance(t, Tensor)}.values()
        self._tensors = [(tensor, _version(tensor), tensor.detach().clone()) for tensor in tensors]
        self._objects = [(each, dict(vars(each))) for value in inputs for each in _objects(value)]
        self._devices = [t.device.index for t in inputs if isinstance(t, Tensor) and t.is_cuda][:1]
        self._states = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]

    def restore(self) -> None:
        """Put everything back that has changed."""
        with torch.no_grad():
            for tensor, version, before in self._tensors:
                # Batch norm writes its statistics without counting it as a change.
                if version is None or _version(tensor) != version or not torch.equal(tensor, before):
                    tensor.copy_(before)
        for each, attributes in self._objects:
            vars(each).clear()
            vars(each).update(attributes)
        torch.set_rng_state(self._states[0])
        for device, state in zip(self._devices, self._states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)


def _buffers(module: nn.Module) -> list[Any]:
    """Those of `module` and below: a third of the time of `nn.Module.buffers`, as it is taken at each call."""
    found: list[Any] = []
    todo, parents = [module], set()
    while todo:
        own = vars(todo.pop())
        found.extend(own["_buffers"].values())
        below = own["_modules"]
        if below and id(below) not in parents:  # a module may be in itself
            parents.add(id(below))
            todo.extend(child for child in below.values() if child is not None)
    return found


def _version(tensor: Tensor) -> int | None:
    """How often `tensor` has been changed; None if it does not tell, as in inference mode."""
    return None if tensor.is_inference() else tensor._version


def _objects(value: Any) -> Iterator[Any]:
    """`value`, if it is an object whose attributes a graph can set, and those inside."""
    if is_object(value):
        yield value
        for item in pytree.tree_leaves(vars(value)):
            yield from _objects(item)
