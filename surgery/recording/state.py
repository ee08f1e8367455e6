"""What a recording assumes of its module besides the inputs: the attributes that the forward read.

An attribute is told by a description that stays the same on another device and in a copy: the value of a constant, the
shape and dtype of a tensor, the class of a module, and the contents of a container or a plain object.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from surgery.recording.describe import Describer, Description, Object
from surgery.recording.surroundings import Global, describe_function, original

State = tuple[tuple[tuple[str, ...], str | Global, Description], ...]
"""The path below the module, the attribute, and its description; or of a global variable."""

MISSING = ("missing",)  # describes an attribute that is not there


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class of `module`, or the one that its generated class stands for."""
    return getattr(type(module), "_surgery_base", type(module))


class _StateDescriber(Describer):
    """Describes attributes of modules, most of which are modules."""

    def describe(self, value: Any, depth: int = 0) -> Description:
        """A module by its class, as what the forward reads of it is an entry of its own."""
        return ("module", own_class(value)) if isinstance(value, nn.Module) else super().describe(value, depth)

    def constant(self, value: Any) -> Description:
        return describe_function(value) if isinstance(value, FunctionType) else super().constant(value)

    def other(self, value: Any, depth: int) -> Description:
        """A method by its function."""
        if isinstance(value, MethodType):
            return ("method", describe_function(value.__func__))
        return super().other(value, depth)


_STATES = _StateDescriber()


def describe(value: Any) -> Description:
    """What is assumed of an attribute that is `value`."""
    return _STATES.describe(value)


def changed(module: nn.Module, state: State) -> str | None:
    """The first attribute of or below `module` that is not as in `state`, by its path; None if all are."""
    for path, name, description in state:
        if isinstance(name, Global):
            if not torch.compiler.is_compiling() and name.describe() != description:
                return str(name)
        elif not _is_at(module, path, name, description):
            return ".".join((*path, name))
    return None


def _is_at(module: nn.Module, path: tuple[str, ...], name: str, description: Description) -> bool:
    """Whether an attribute, which need not be there, is as described."""
    for part in path:
        if part not in module._modules:
            return bool(description == MISSING)
        module = module._modules[part]  # type: ignore[assignment]
    if torch.compiler.is_compiling() and hasattr(module, name):
        return _agrees(getattr(module, name), description)
    return bool(attribute_seen(module, name) == description)


def _agrees(value: Any, description: Description) -> bool:
    """Whether `value` is as described, as far as compiled code can ask: that of PyTorch 2.11 lists no attributes, neither
    of an object, which is asked for those that it had, nor of a function."""
    if isinstance(description, Object):
        return type(value) is description.cls and all(
            hasattr(value, name) and _agrees(getattr(value, name), each) for name, each in description.attributes[1:]
        )
    if isinstance(value, MethodType):
        return description[0] == "method" and original(value.__func__) is description[1][0]
    if isinstance(value, FunctionType):
        return original(value) is description[0]
    return bool(describe(value) == description)


def attribute_seen(module: nn.Module, name: str) -> Description:
    """As `describe`, of an attribute of `module` that need not be there."""
    return describe(getattr(module, name)) if hasattr(module, name) else MISSING
