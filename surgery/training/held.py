"""A teacher that takes less memory while a student learns from it: in 8 or 4 bits, or in the host's memory.

It is only read, so its linear layers may be rounded, or each layer brought to the device when it is called. Afterwards it
is what it was. The student has weights of its own, which are never rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.errors import RecipeError
from surgery.recording.parameters import first_floating
from surgery.rewriting.commit import replaced_in

Held = Literal["int8", "nf4", "offload"]
"""How a teacher's weights are held, see `held`."""
Rounding = Callable[[Tensor], Callable[[], Tensor]]
"""Takes a weight, and gives what makes it again, nearly."""
LARGEST = 127
"""Of a whole number of 8 bits."""
HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")
"""Of diffusers, in group offloading."""


@contextmanager
def held(teacher: nn.Module, how: Held | None) -> Iterator[None]:
    """Let a model take less memory inside the block.

    Args:
        teacher: its parameters are others inside the block and afterwards, of the same values afterwards.
        how: "int8" holds the weights of linear layers as whole numbers of 8 bits, with a scale for each row; "nf4" in 4
            bits, spaced as a normal distribution is, with a scale for each 64 (Dettmers et al., arXiv 2305.14314); the
            exact ones wait in the host's memory. "offload" keeps all weights there, and brings those of a layer to the
            device when it is called. None changes nothing.

    Raises:
        RecipeError: bitsandbytes is not installed.
    """
    if how is None:
        yield
        return
    with _offloaded(teacher) if how == "offload" else _quantised(teacher, _in_8_bits if how == "int8" else _in_4_bits):
        yield


@contextmanager
def set_aside(student: nn.Module, used: Collection[nn.Module], wanted: bool) -> Iterator[None]:
    """Keep what of a student none of the modules `used` has in the host's memory inside the block, if `wanted`.

    What it has replaced is never used, and would keep the memory of the teacher's weights that it shares.
    """
    needed = {id(parameter) for module in used for parameter in module.parameters()}
    parts = (student, *replaced_in(student)) if wanted else ()
    places = {p: p.device for part in parts for p in part.parameters() if id(p) not in needed}
    for parameter in places:
        parameter.data = parameter.data.cpu()
    try:
        yield
    finally:
        for parameter, device in places.items():
            parameter.data = parameter.data.to(device)


def on_device(teacher: nn.Module, how: Held | None) -> tuple[list[Tensor], int]:
    """What of a teacher stays on its device as it is inside of `held`, and the bytes of what is there beside that.

    These are of rounded weights, and of the largest layer as it is called. Where the device is the host, none leave it.
    """
    tensors = [*teacher.parameters(), *teacher.buffers()]
    layers = [module.weight for module in teacher.modules() if type(module) is nn.Linear]
    is_host = tensors[0].device.type == "cpu"
    if how is None or (how == "offload" and is_host):
        return tensors, 0
    if how == "offload":
        return [], max(sum(p.nbytes for p in module.parameters(recurse=False)) for module in teacher.modules())
    sizes = [weight.numel() + 4 * len(weight) if how == "int8" else weight.numel() * 33 // 64 for weight in layers]
    once = max((4 if how == "int8" else weight.element_size()) * weight.numel() for weight in layers)
    left = {id(weight) for weight in layers}
    return [tensor for tensor in tensors if is_host or id(tensor) not in left], sum(sizes) + once


def require_packages(how: Held | None) -> None:
    """Raise RecipeError if what holds weights so is not installed."""
    if how == "nf4":
        _bitsandbytes()


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes.functional
    except ImportError as error:
        raise RecipeError("teacher_weights='nf4' needs bitsandbytes: pip install 'surgery[quantised]'") from error
    return bitsandbytes.functional


@contextmanager
def _quantised(model: nn.Module, rounded: Rounding) -> Iterator[None]:
    """Layers stay the modules that they are, so that hooks on them go on seeing what they give."""
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    exact = [(layer.weight.detach().cpu(), layer.weight.device) for layer in layers]
    for layer, (weight, device) in zip(layers, exact, strict=True):
        layer.forward = partial(_linear, layer, rounded(layer.weight.detach()))  # type: ignore[method-assign]
        nothing = torch.full((1,), torch.nan, dtype=weight.dtype, device=device)
        layer.weight = nn.Parameter(nothing.expand(weight.shape), requires_grad=False)  # tells its dtype only
    try:
        yield
    finally:
        for layer, (weight, device) in zip(layers, exact, strict=True):
            del layer.forward
            layer.weight = nn.Parameter(weight.to(device))


def _linear(layer: nn.Linear, weight: Callable[[], Tensor], x: Tensor) -> Tensor:
    """What a linear layer gives whose weight is `weight`, nearly exact again while it is used."""
    return F.linear(x, weight().to(x.dtype), layer.bias)


def _in_8_bits(weight: Tensor) -> Callable[[], Tensor]:
    """A weight in whole numbers from -127 to 127, times the largest of each row over 127."""
    scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny).float() / LARGEST
    whole = (weight / scale).round().to(torch.int8)
    return lambda: whole * scale


def _in_4_bits(weight: Tensor) -> Callable[[], Tensor]:
    functions = _bitsandbytes()
    packed, state = functions.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
    return partial(functions.dequantize_4bit, packed, state)


@contextmanager
def _offloaded(model: nn.Module) -> Iterator[None]:
    from diffusers.hooks import apply_group_offloading

    first = first_floating(model)
    assert first is not None, "a model without weights is no teacher"
    device = first.device
    options: dict[str, Any] = {"onload_device": device, "offload_device": torch.device("cpu")}
    apply_group_offloading(model, offload_type="leaf_level", use_stream=device.type == "cuda", **options)
    try:
        yield
    finally:
        for module in model.modules():
            for name in HOOKS if hasattr(module, "_diffusers_hook") else ():
                module._diffusers_hook.remove_hook(name, recurse=False)  # type: ignore[operator, union-attr]
        for module in model.modules():
            for attribute in ("forward", "_diffusers_hook"):  # diffusers leaves them on each
                vars(module).pop(attribute, None)
        model.to(device)
