"""The right-hand sides of rules, as plain data: what goes to the place that a pattern matched.

Values are written as `surgery.rewriting.values` says: `b`, `b[1]`, `b(hidden_states)`, `b.transpose(1, 2)`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import nn

from surgery.config import Config
from surgery.errors import RewriteError
from surgery.operators import AnyDims, AnyOperator, MixerConfig, MixerDims, Policy
from surgery.rewriting.values import Value, parse


class Replacement(Config):
    """A new operator in the place of one module, or as a new module of a `Rewiring`.

    Attributes:
        operator: the new operator's config.
        dims: the sizes that it takes over from the module that it replaces.
        inherit: which weights it takes over.
    """

    kind: Literal["operator"] = "operator"
    operator: AnyOperator
    dims: AnyDims
    inherit: Policy

    def build(self) -> nn.Module:
        """A fresh module with random weights, on torch's default device."""
        module: nn.Module = self.operator.build(self.dims)
        return module


class New(Config):
    """A new module of a `Rewiring`.

    Attributes:
        operator: its config.
        dims: its sizes.
        sources: names of the matched nodes whose modules it is initialised from, by its `inherit`; none for random
            weights, or for how the operator starts.
        inherit: which weights it takes over.
        core: build the operator's core, which mixes queries, keys and values that others have projected.
        at: the path in the scope that it goes to, where an earlier edit has taken a module out; None for a fresh name.
    """

    kind: Literal["new"] = "new"
    operator: AnyOperator
    dims: AnyDims
    sources: tuple[str, ...] = ()
    inherit: Policy = "projections"
    core: bool = False
    at: str | None = None

    def build(self) -> nn.Module:
        """A fresh module with random weights, on torch's default device."""
        if not self.core:
            module: nn.Module = self.operator.build(self.dims)
            return module
        if not isinstance(self.operator, MixerConfig) or not isinstance(self.dims, MixerDims):
            raise RewriteError(f"{self.operator.kind} mixes no tokens and has no core; choose a sequence mixer")
        return self.operator.core(self.dims)


class Copy(Config):
    """A module with the structure and the weights of that which the matched node `of` calls."""

    kind: Literal["copy"] = "copy"
    of: str


NewModule = Annotated[New | Copy, Field(discriminator="kind")]


class Call(Config):
    """A call in the edited graph.

    Attributes:
        name: by which other values refer to its result.
        module: a new module, or a matched node whose module is called again.
        like: a matched node, whose arguments it is called with; None for those of `arguments` only.
        arguments: by name, instead of those.
    """

    name: str
    module: str
    like: str | None = None
    arguments: dict[str, Value] = Field(default={})


class Rewiring(Config):
    """An edit of a graph: new calls, and what they stand for.

    The matched nodes whose results neither the new calls nor `results` read are taken out, as are those modules that are
    not called any more; `keeps` names others that stay.

    Attributes:
        modules: new modules by name.
        calls: new calls, in an order in which each reads those before it only.
        results: old values, and the new ones that take their place everywhere outside of the match.
        keeps: matched nodes that stay as they are although nothing here reads them.
        repeated: the one matched node stands for all that the same line calls, as in a loop over samples, however many.
    """

    kind: Literal["rewiring"] = "rewiring"
    modules: dict[str, NewModule] = Field(default={})
    calls: tuple[Call, ...] = ()
    results: dict[Value, Value]
    keeps: tuple[str, ...] = ()
    repeated: bool = False

    @model_validator(mode="after")
    def _names_differ(self) -> Rewiring:
        names = [*self.modules, *(call.name for call in self.calls)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RewriteError(f"the name {twice!r} is given twice in a rewiring; every module and call has its own")
        return self

    @property
    def fresh(self) -> set[str]:
        """The new modules that go where none was before."""
        return {name for name, new in self.modules.items() if not isinstance(new, New) or new.at is None}

    @property
    def read(self) -> set[str]:
        """Names of the nodes and calls whose results it reads."""
        values = [v for call in self.calls for v in call.arguments.values()] + list(self.results.values())
        return {each.name for each in map(parse, values) if each.argument is None}


class Number(Config):
    """A whole number in the arguments of a node that gives way to another.

    Attributes:
        at: where it stands: the position or keyword of an argument, then items of sequences, or a bound of a slice.
        value: the new one.
    """

    at: tuple[int | str, ...]
    value: int


class Resizing(Config):
    """Several modules replaced in their places at once, so that what flows between them may have other sizes.

    Attributes:
        modules: by the name of the matched node whose module each replaces.
        numbers: that change with those sizes, by the name of the matched node, all in the graph of one scope.
    """

    kind: Literal["resizing"] = "resizing"
    modules: dict[str, New] = Field(min_length=1)
    numbers: dict[str, tuple[Number, ...]] = Field(default={})


class Sharing(Config):
    """Modules that become one: all the others are the first one from now on.

    Attributes:
        average: start with the mean of all their weights, not with those of the first.
    """

    kind: Literal["sharing"] = "sharing"
    average: bool = False
