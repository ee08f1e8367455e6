"""Which classes run the code of PyTorch's own modules."""

from __future__ import annotations

from torch import nn

# What a subclass may have of its own: none of it runs in a call.
_HARMLESS = {"__init__", "__module__", "__qualname__", "__doc__", "__annotations__", "__parameters__",
             "__orig_bases__", "__firstlineno__", "__static_attributes__", "reset_parameters", "extra_repr"}  # fmt: skip


def stock_class(cls: type[nn.Module]) -> type[nn.Module] | None:
    """The class in torch.nn that `cls` is, or is called like: a subclass with its own start, but nothing else of its own.

    None for all others, parametrised modules included: their weights are computed.
    """
    for base in cls.__mro__:
        if base.__module__.startswith("torch.nn."):
            return None if base is nn.Module or not issubclass(base, nn.Module) else base
        for name, value in vars(base).items():
            if isinstance(value, property) or (name not in _HARMLESS and hasattr(nn.Module, name)):
                return None
            if name not in _HARMLESS and any(name in vars(other) for other in _torch_bases(cls)):
                return None
    return None


def is_stock(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Whether `module` is called like a `cls` of torch.nn, not like something that inherits from one."""
    return stock_class(type(module)) is cls


def _torch_bases(cls: type[nn.Module]) -> list[type]:
    return [base for base in cls.__mro__ if base.__module__.startswith("torch.nn.")]


STACKS = (
    nn.Sequential, nn.Transformer, nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)  # fmt: skip
"""The modules of torch that are opened, as they hold others."""


def is_closed(module: nn.Module) -> bool:
    """Whether `module` is one of PyTorch's that is called as a whole."""
    return stock_class(type(module)) is not None and not isinstance(module, STACKS)
