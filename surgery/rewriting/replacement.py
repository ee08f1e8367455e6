"""The right-hand sides of rules, as plain data: what goes to the place that a pattern matched.

Values of the matched nodes and of new calls are written as they would be in code: `b` is the result of the node that the
pattern calls `b`, `b[1]` an item of it, `b(hidden_states)` what that node is called with; of a function, `b(0)` is its
first positional argument; of an operator made of several nodes, `b(input)` is the one tensor that flows in.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from torch import nn

from surgery.config import Config
from surgery.errors import RewriteError
from surgery.operators import AnyDims, AnyOperator, MixerConfig, MixerDims, Policy

_VALUE = re.compile(r"(?P<name>\w+)(\((?P<argument>\w+)\))?(?P<items>(\[\w+\])*)")


def _checked(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise RewriteError(f"{value!r} is no value; write b, b[1] or b(hidden_states) for a node called b")
    return value


Value = Annotated[str, AfterValidator(_checked)]


@cache
def parse(value: str) -> tuple[str, str | None, tuple[int | str, ...]]:
    """The node's name, the argument's name or None, and the items that a value is written with."""
    found = _VALUE.fullmatch(value)
    assert found is not None
    items = re.findall(r"\[(\w+)\]", found["items"])
    return found["name"], found["argument"], tuple(int(i) if i.isdigit() else i for i in items)


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
    """

    kind: Literal["new"] = "new"
    operator: AnyOperator
    dims: AnyDims
    sources: tuple[str, ...] = ()
    inherit: Policy = "projections"
    core: bool = False

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
    """

    kind: Literal["rewiring"] = "rewiring"
    modules: dict[str, NewModule] = Field(default={})
    calls: tuple[Call, ...] = ()
    results: dict[Value, Value]
    keeps: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Rewiring:
        names = [*self.modules, *(call.name for call in self.calls)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RewriteError(f"the name {twice!r} is given twice in a rewiring; every module and call has its own")
        return self

    @property
    def read(self) -> set[str]:
        """Names of the nodes and calls whose results it reads."""
        values = [v for call in self.calls for v in call.arguments.values()] + list(self.results.values())
        return {name for name, argument, _ in map(parse, values) if argument is None}


class Resizing(Config):
    """Several modules replaced in their places at once, so that what flows between them may have other sizes.

    Attributes:
        modules: by the name of the matched node whose module each replaces.
    """

    kind: Literal["resizing"] = "resizing"
    modules: dict[str, New] = Field(min_length=1)


class Sharing(Config):
    """Modules that become one: all the others are the first one from now on.

    Attributes:
        average: start with the mean of all their weights, not with those of the first.
    """

    kind: Literal["sharing"] = "sharing"
    average: bool = False


AnyReplacement = Annotated[Replacement | Rewiring | Resizing | Sharing, Field(discriminator="kind")]


def require_names(rewiring: Rewiring, matched: Any, where: str) -> None:
    """Raise RewriteError if `rewiring` names a node that the pattern does not, or its own names hide one."""
    own = {*rewiring.modules, *(call.name for call in rewiring.calls)}
    hidden = sorted(own & set(matched))
    if hidden:
        raise RewriteError(f"{where}: {hidden[0]!r} is both a matched node and a new name; choose another name")
    values = [v for call in rewiring.calls for v in call.arguments.values()]
    read = [parse(v)[0] for v in (*values, *rewiring.results.values())]
    callees = [call.module for call in rewiring.calls if call.module not in rewiring.modules]
    likes = [call.like for call in rewiring.calls if call.like is not None]
    sources = [s for m in rewiring.modules.values() for s in (m.sources if isinstance(m, New) else (m.of,))]
    old = [parse(value)[0] for value in rewiring.results]
    calls = {call.name for call in rewiring.calls}
    named = [*callees, *likes, *sources, *old, *rewiring.keeps, *(name for name in read if name not in calls)]
    missing = next((name for name in named if name not in matched), None)
    if missing is not None:
        raise RewriteError(f"{where}: no node is called {missing!r}; the pattern names {', '.join(matched)}")
