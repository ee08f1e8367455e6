"""Values of tensors, for models that read them.

The recording runs on meta tensors, which have none. A model that reads values (`mask.sum().item()`, `x[mask]`) is
recorded once more with this at hand: each meta tensor whose values can be known has a real twin here. Those that are
computed with weights on the meta device cannot; they have sizes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from surgery.errors import TraceError
from surgery.recording.in_place import writes
from surgery.recording.skeleton import Owned, blank, owned_tensors
from surgery.tracing.leaves import leaves, map_leaves

# `torch.all(image == 0)` asks whether an input is there at all, which repeats from call to call.
SENTINELS = {torch.eq, torch.ne, torch.Tensor.eq, torch.Tensor.ne, torch.Tensor.__eq__, torch.Tensor.__ne__, torch.isnan,
             torch.Tensor.isnan, torch.isinf, torch.Tensor.isinf}  # fmt: skip


class KnownValues:
    """Real twins of meta tensors.

    Args:
        real: the module that is recorded; its tensors are read, never written.
        inputs: pairs of a meta tensor and the real tensor that the caller gave.
    """

    def __init__(self, real: nn.Module, inputs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._real: dict[int, torch.Tensor] = {}
        self._meta: dict[int, torch.Tensor] = {}
        self._alive: list[torch.Tensor] = []
        self._from_floats: set[int] = set()
        self._module = real
        known = [tensor for _, tensor in inputs if not tensor.is_meta]
        self.device = next((t.device for t in [*known, *real.parameters()] if not t.is_meta), torch.device("cpu"))
        for meta, tensor in inputs:
            self._learn(meta, tensor.detach().clone())

    def learn_owned(self, owned: Mapping[int, Owned], root: str) -> None:
        """Pair the skeleton's own tensors with those of the real module, which stands at `root`."""
        real = {(o.path, o.keys): o.tensor for o in owned_tensors(self._module, root).values()}
        for each in owned.values():
            if not isinstance(each.tensor, torch.Tensor):
                continue
            tensor = real[each.path, each.keys]
            self._learn(each.tensor, tensor.detach() if isinstance(tensor, nn.Parameter) else tensor.detach().clone())

    def of(self, meta: torch.Tensor) -> torch.Tensor | None:
        """The real twin of `meta`, if it is known."""
        return self._real.get(id(meta))

    def know(self, *values: Any) -> bool:
        """Whether every tensor in `values` has a real twin."""
        return all(id(v) in self._real for v in leaves(values) if isinstance(v, torch.Tensor))

    def know_module(self, path: str) -> bool:
        """Whether the module at `path` has all of its weights."""
        module = self._module.get_submodule(path)
        return not any(t.is_meta for t in (*module.parameters(), *module.buffers()))

    def compares_floats(self, meta: torch.Tensor) -> bool:
        """Whether the truth values in `meta` were told from floating-point data, other than by equality."""
        return id(meta) in self._from_floats

    def call(self, path: str, args: Any, kwargs: Any) -> Any:
        """The result of the module at `path`, for meta arguments, as meta tensors with real twins."""
        return self.run(self._module.get_submodule(path), args, kwargs)

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """`function(*args, **kwargs)` for meta arguments, as meta tensors with real twins."""
        real_args, real_kwargs = map_leaves(self._substitute, args), map_leaves(self._substitute, kwargs)
        with torch.no_grad():
            result = function(*real_args, **real_kwargs)
        told = function not in SENTINELS and any(self._tells(v) for v in leaves((args, kwargs)))
        return map_leaves(lambda value: self._twin(value, told), result)

    def size(self, function: Callable[..., Any], args: Any, kwargs: Any, guess: bool) -> Any:
        """The result of a function whose sizes depend on values, of which some are not known, as meta tensors.

        Raises:
            TraceError: the sizes depend on the unknown values, and are not to be guessed.
        """
        results = [self._filled(function, args, kwargs, number) for number in ((0,) if guess else (0, 1))]
        found = [[tuple(v.shape) if isinstance(v, torch.Tensor) else v for v in leaves(each)] for each in results]
        numbers = any(isinstance(v, bool | int | float) for v in found[0])
        if not guess and (numbers or found[0] != found[1]):
            raise unknown(getattr(function, "__name__", str(function)))
        return map_leaves(lambda value: blank(value) if isinstance(value, torch.Tensor) else value, results[0])

    def _filled(self, function: Callable[..., Any], args: Any, kwargs: Any, number: int) -> Any:
        """The result with every unknown value taken for `number`; arguments are copies, as they may be changed."""

        def fill(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return self._substitute(value)
            return self._real[id(value)].clone() if self.know(value) else self.guess(value, number)

        with torch.no_grad():
            return function(*map_leaves(fill, args), **map_leaves(fill, kwargs))

    def guess(self, meta: torch.Tensor, number: int = 0) -> torch.Tensor:
        """What stands for the unknown values of `meta`."""
        return torch.full(meta.shape, number, dtype=meta.dtype, device=self.device)

    def forget_written(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """Forget the values of what `function` is about to overwrite with unknown ones, and of all views of it."""
        if not writes(getattr(function, "__name__", ""), kwargs):
            return
        written = self.of(kwargs.get("out", args[0] if args else None))
        if written is not None:
            storage = written.untyped_storage().data_ptr()
            self._real = {key: t for key, t in self._real.items() if t.untyped_storage().data_ptr() != storage}

    def _tells(self, value: Any) -> bool:
        """Whether a truth value computed from `value` tells floating-point data."""
        return isinstance(value, torch.Tensor) and (value.is_floating_point() or self.compares_floats(value))

    def _substitute(self, value: Any) -> Any:
        """The real twin of a meta tensor, and the real device."""
        if isinstance(value, torch.Tensor):
            return self._real[id(value)]
        return self.device if isinstance(value, torch.device) and value.type == "meta" else value

    def _twin(self, value: Any, told: bool) -> Any:
        """The meta tensor for a real result, with the note of what it tells."""
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in self._meta:
            self._learn(blank(value), value)
        meta = self._meta[id(value)]
        if told and value.dtype == torch.bool:
            self._from_floats.add(id(meta))
        return meta

    def _learn(self, meta: torch.Tensor, real: torch.Tensor) -> None:
        """Keep a pair, and both alive, so that their ids stay their own."""
        if not real.is_meta:
            self._real[id(meta)], self._meta[id(real)] = real, meta
            self._alive += [meta, real]


def unknown(reader: str) -> TraceError:
    """The error of a forward that reads, by `reader`, values which are not known."""
    return TraceError(
        f"the model reads the values of a tensor ({reader}) without having them; trace it with real inputs and weights, "
        "or declare the module that does it a leaf"
    )
