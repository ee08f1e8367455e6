"""Modes of PyTorch that no other thread notices: its own for random numbers and devices change the whole process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from surgery.recording.one_thread import OneThreadMode
from surgery.recording.torch_private import device_constructors, pytree


class OnMeta(TorchFunctionMode):
    """As `torch.device("meta")`: what is made inside is on the meta device, unless the code names another one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in device_constructors() and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": torch.device("meta")}
        return func(*args, **kwargs)


class OwnDraws(OneThreadMode):  # type: ignore[no-untyped-call]
    """Random numbers inside are those that follow `torch.manual_seed(seed)`, from generators that nobody else draws from.

    Args:
        seed: of the generators.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        device = _device(args, kwargs)
        if device.type == "meta":
            return func(*args, **kwargs)
        generator = self._generators.setdefault(device, torch.Generator(device).manual_seed(self._seed))
        seeded = _with_generator(func)
        if seeded is not None:
            return seeded(*args, **{**kwargs, "generator": generator})
        return _lent(generator, lambda: func(*args, **kwargs))


def _device(args: Any, kwargs: dict[str, Any]) -> torch.device:
    """Where a function draws."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    tensors = (leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _with_generator(func: Any) -> Any:
    """The overload of an operator that takes a generator: itself, or another one; None if there is none."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = func._overloadname
    return getattr(func.overloadpacket, "generator" if name == "default" else f"{name}_generator", None)


def _lent(generator: torch.Generator, call: Callable[[], Any]) -> Any:
    """The result of `call`, which takes no generator: for its time the process's has the state of `generator`."""
    device = generator.device
    shared = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]
    before = shared.get_state()
    shared.set_state(generator.get_state())
    try:
        return call()
    finally:
        generator.set_state(shared.get_state())
        shared.set_state(before)
