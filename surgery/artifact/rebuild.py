"""The structure of a student, from its base and its edits, without memory for weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from surgery.errors import ArtifactError, in_one_line
from surgery.recording.own_modes import OnMeta, OwnDraws
from surgery.recording.skeleton import owned_tensors, skeleton
from surgery.rewriting import Edit
from surgery.rewriting.commit import Record, make_modules, rewire, rewired_aliases, set_record

MOST_TENSORS = 100_000
"""A model of 14 B parameters makes about 2,000."""
LARGEST = 2**26
"""Elements of a tensor that is made with values; tables of positions have fewer."""


LARGEST_TABLES = 2**28
"""Bytes of tables; positions for images of 4,096 pixels take half of it."""


class _WithoutWeights(TorchFunctionMode):
    """Puts what `torch.empty` makes, as layers make their weights, on the meta device; tables get their values.

    A description that has been tampered with can ask for models of any size: there is a bound.
    """

    def __init__(self, most: int = MOST_TENSORS) -> None:
        super().__init__()
        self._left = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            self._left -= 1
            kwargs["device"] = kwargs.get("device") or "meta"
        elif func in (torch.zeros, torch.ones, torch.rand, torch.randn) and _elements(args) > LARGEST:
            self._left = -1
        if self._left < 0:
            raise ArtifactError("it describes a model that is larger than any")
        return func(*args, **kwargs)


def _elements(args: Sequence[Any]) -> int:
    sizes = args[0] if args and isinstance(args[0], list | tuple) else args
    return math.prod(int(size) for size in sizes)


def transformer_class(name: str) -> Any:
    """The transformer class of diffusers called `name`; None if there is none."""
    import diffusers  # late: the import takes seconds

    found = getattr(diffusers, name, None)
    is_model = isinstance(found, type) and issubclass(found, diffusers.ModelMixin) and is_transformer(found)
    return found if is_model else None


def is_transformer(model_class: type) -> bool:
    """Whether a class is a transformer of diffusers."""
    return model_class.__module__.startswith("diffusers.models.transformers")


def from_config(model_class: Any, config: Mapping[str, Any], most: int = MOST_TENSORS) -> nn.Module:
    """A model of diffusers with its tables, but without weights; the caller's random state is left alone.

    Raises:
        ArtifactError: the class does not take the config, or makes more than `most` tensors of it.
    """
    try:
        with OwnDraws():
            with OnMeta(), _WithoutWeights(most):
                _require_moderate(model_class.from_config(config))
            with _WithoutWeights():
                model: nn.Module = model_class.from_config(config)
    except ArtifactError:
        raise
    except Exception as error:  # whatever a class does with values that it does not expect
        raise ArtifactError(f"{model_class.__name__} cannot be made from its config: {in_one_line(error)}") from error
    return model.eval()


def _require_moderate(model: nn.Module) -> None:
    """Raise ArtifactError if the tables of `model`, which is on the meta device, would take much memory."""
    weights = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    tables = [each.tensor for key, each in owned_tensors(model).items() if key not in weights]
    if sum(table.nbytes for table in tables if isinstance(table, torch.Tensor)) > LARGEST_TABLES:
        raise ArtifactError("it describes a model that is larger than any")


def with_edits(base: nn.Module, commits: Sequence[tuple[Edit, ...]]) -> nn.Module:
    """`base` itself with the edits of `commits` made; their new modules have no weights yet.

    Raises:
        ArtifactError: they do not fit.
    """
    replaced: dict[str, nn.Module] = {}
    try:
        with _WithoutWeights():
            for edits in commits:
                aliases = rewired_aliases(base, edits)
                for path, old in make_modules(base, edits, seed=None).items():
                    replaced.setdefault(path, skeleton(old))
                rewire(base, edits, replaced, {}, aliases)
    except Exception as error:  # edits of another model fail in many ways
        raise ArtifactError(f"its edits do not fit {type(base).__name__}: {in_one_line(error)}") from error
    if commits:
        set_record(base, Record(tuple(commits), replaced))
    return base
