"""A copy of the model on the meta device, on which the recording runs: the user's model is neither run nor changed."""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask
from torch.overrides import TorchFunctionMode

from surgery.errors import TraceError
from surgery.recording.describe import DEEPEST, attributes_of, has_attributes
from surgery.recording.generated import forget
from surgery.recording.hooks import hooks_of, movers
from surgery.recording.paths import below

ATOMS = {type(None), bool, int, float, str}
"""Classes of values that a copy shares."""
BOOKKEEPING = set(vars(nn.Module())) - {"training"}


def blank(tensor: torch.Tensor) -> torch.Tensor:
    """A meta tensor of the same sizes, strides and dtype that requires no gradient."""
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` on the meta device, still a parameter if it is one, and still trained if it is."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(blank(tensor), requires_grad=tensor.requires_grad)
    return blank(tensor).requires_grad_(tensor.requires_grad and tensor.is_leaf)


class _MetaCopies(TorchFunctionMode):
    """Makes `copy.deepcopy` of a tensor that is neither parameter nor buffer land on the meta device too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            return memo.setdefault(id(tensor), _meta(tensor))
        return func(*args, **(kwargs or {}))


def skeleton(model: nn.Module) -> nn.Module:
    """`model`'s structure and Python state with every tensor on the meta device; gradient checkpointing is off.

    Generated classes are taken back to those that they were generated from, and hooks are left out: they run when a
    module is called, recorded or not.
    """
    modules = dict(model.named_modules())
    for path, module in modules.items():
        _refuse_uncopied(path, module)
    with _MetaCopies():
        return _copied(
            model, _generators(modules.values()) | {id(t): _meta(t) for t in (*model.parameters(), *model.buffers())}
        )


def _generators(modules: Iterable[nn.Module]) -> dict[int, Any]:
    """The generators that modules hold, by id: they stay, as their states cannot be on the meta device."""
    values = (vars(module)[name] for module in modules for name in vars(module).keys() - BOOKKEEPING)
    return {id(value): value for value in values if isinstance(value, torch.Generator)}


def _refuse_uncopied(path: str, module: nn.Module) -> None:
    """Raise TraceError if `module` is compiled, or if a hook computes a tensor of it, which would stay what it is."""
    if hasattr(module, "_orig_mod"):
        raise TraceError(f"module {path!r}: is made by torch.compile; rewrite the model first, and compile the student")
    if not module._forward_pre_hooks:
        return
    tensors = [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]
    if tensors:
        raise TraceError(
            f"module {path!r}: a hook computes its {tensors[0]} before each call, as torch.nn.utils.weight_norm does; "
            "use torch.nn.utils.parametrizations, or remove the hook"
        )


def without_weights(model: nn.Module) -> nn.Module:
    """As `skeleton`, but tensors that are not in the `state_dict`, such as tables of positions, are copied."""
    saved = model.state_dict(keep_vars=True).values()
    return _copied(model, {id(t): _meta(t) for t in saved if isinstance(t, torch.Tensor)})


def sharing(model: nn.Module) -> nn.Module:
    """As `skeleton`, but with the parameters of `model` itself, and copies of its other tensors."""
    return remade(model, lambda tensor: tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone())


def remade(model: nn.Module, make: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """As `skeleton`, but with what `make` gives for each tensor that `model` holds."""
    tensors = (each.tensor for each in owned_tensors(model).values() if isinstance(each.tensor, torch.Tensor))
    return _copied(model, {id(tensor): make(tensor) for tensor in tensors})


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of `model` whose tensors are those of `memo`, by the id of the old ones."""
    modules = list(model.modules())
    hooks = {id(hook): None for module in modules for hook in (*movers(module).values(), *hooks_of(module))}
    plain = {cls for cls in set(map(type, modules)) if _is_copied_plainly(cls)}
    memo = (
        memo | hooks | {id(module): type(module).__new__(type(module)) for module in modules if type(module) in plain}
    )
    for module in modules:
        if id(module) in memo:
            vars(memo[id(module)]).update({name: _copy(value, memo) for name, value in vars(module).items()})
    twin: nn.Module = copy.deepcopy(model, memo)
    for module in twin.modules():
        forget(module)
        for name in movers(module):
            del vars(module)[name]
        if getattr(module, "gradient_checkpointing", False):
            module.gradient_checkpointing = False  # type: ignore[assignment]
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return twin


def _is_copied_plainly(module_class: type[nn.Module]) -> bool:
    """Whether `copy.deepcopy` of a module copies its attributes, each in turn, and nothing else."""
    return not hasattr(module_class, "__deepcopy__") and all(
        getattr(module_class, name, None) is getattr(nn.Module, name, None)
        for name in ("__reduce_ex__", "__reduce__", "__getstate__", "__setstate__", "__new__")
    )


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """As `copy.deepcopy`, which takes its time over the dozen empty dicts and flags that every module has."""
    if type(value) in ATOMS:
        return value
    if type(value) in (dict, OrderedDict) and not value:
        return memo.setdefault(id(value), type(value)())
    return copy.deepcopy(value, memo)


def computed_tensors(model: nn.Module) -> dict[int, torch.Tensor]:
    """Copies of the tensors that a forward has computed and kept, by the id of the old ones; `copy` refuses these."""
    owned = (each.tensor for each in owned_tensors(model).values() if isinstance(each.tensor, torch.Tensor))
    return {id(tensor): tensor.detach().clone() for tensor in owned if not tensor.is_leaf}


class Attribute(str):
    """A key that is the name of an attribute of a plain object."""

    __slots__ = ()


@dataclass(frozen=True)
class Owned:
    """A tensor, or a block mask, that a module holds; or a module below it.

    `path` is that of the attribute; `keys` lead further if that is a list, tuple, dict or plain object.
    """

    path: str
    keys: tuple[Any, ...]
    tensor: Any


def owned_tensors(model: nn.Module, root: str = "") -> dict[int, Owned]:
    """Parameters, buffers and plain tensor attributes of `model`, which stands at `root`, by `id`."""
    found: dict[int, Owned] = {}
    for each in _every_owned(model, root):
        found.setdefault(id(each.tensor), each)
    return found


def _every_owned(model: nn.Module, root: str) -> Iterator[Owned]:
    """As `owned_tensors`; one that is held at several places is given for each."""
    for path, module in model.named_modules(remove_duplicate=False, prefix=root):
        attributes = {**vars(module), **module._parameters, **module._buffers}
        for name, value in attributes.items():
            if name not in BOOKKEEPING:
                for keys, tensor in held_tensors(value):
                    yield Owned(below(path, name), keys, tensor)


def shares_parts(model: nn.Module) -> bool:
    """Whether a module or a tensor stands at several places of `model`."""
    parts = [id(module) for _, module in model.named_modules(remove_duplicate=False)]
    parts += [id(each.tensor) for each in _every_owned(model, "")]
    return len(set(parts)) < len(parts)


def owned_parts(model: nn.Module, root: str = "") -> dict[int, Owned]:
    """As `owned_tensors`, and the modules below `model`."""
    modules = {id(part): Owned(path, (), part) for path, part in model.named_modules(prefix=root) if part is not model}
    return owned_tensors(model, root) | modules


def held_tensors(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The tensors and block masks in an attribute, with the keys that lead to them."""
    if isinstance(value, torch.Tensor | BlockMask):
        yield keys, value
    elif len(keys) < DEEPEST:
        for key, item in _items(value):
            yield from held_tensors(item, (*keys, key))


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    """What is in a container or a plain object, such as a helper that caches position embeddings."""
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, list | tuple | deque):
        return enumerate(value)
    is_plain = has_attributes(value) and not isinstance(value, nn.Module | type) and not _is_code(value)
    return ((Attribute(name), item) for name, item in attributes_of(value).items()) if is_plain else ()


def _is_code(value: Any) -> bool:
    """Whether `value` is a function, a method or a module of Python, whose attributes are no state of the model."""
    return isinstance(value, FunctionType | MethodType | ModuleType)
