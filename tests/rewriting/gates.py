"""A rule as a user would write it, a learned gate after each MLP, and rules that fail when they are told to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from surgery.graph import ModelGraph
from surgery.operators import AnyOperator, JoinerDims, OperatorConfig
from surgery.rewriting import Call, New, Pattern, Replacement, Rewiring, Rule, Site, node
from tests.rewriting.operators import Scale, ScaleMixer


class Gate(OperatorConfig):
    """Multiplies each feature by a learned number that starts at one."""

    kind: Literal["gate"] = "gate"

    def build(self, dims: JoinerDims) -> nn.Module:
        return GateModule(dims.dim)

    def flops(self, dims: JoinerDims, batch: int, tokens: int) -> int:
        return batch * tokens * dims.dim

    def flops_mixing(self, dims: JoinerDims, batch: int, tokens: int) -> int:
        return 0


class GateModule(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain

    def inherit(self, *_: Any, **__: Any) -> None:
        """Nothing: it starts as the identity whatever it stands at."""


class GateMLP(Rule):
    """Puts a gate after each MLP."""

    pattern: Pattern = node("mlp")
    operator: AnyOperator = Gate()

    def replacement(self, site: Site) -> Rewiring:
        dims, sources = JoinerDims(dim=site.result.shape[-1]), ("a",) if site.first.is_module else ()
        return Rewiring(
            modules={"gate": New(operator=self.operator, dims=dims, sources=sources)},
            calls=(Call(name="gated", module="gate", arguments={"x": "a"}),),
            results={"a": "gated"},
        )


class Injected(RuntimeError):
    """The failure that a test asks for."""


class Countdown:
    """Fails at the call after `left` others."""

    def __init__(self, left: int) -> None:
        self.left = left

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Injected("injected")


class Armed(Rule):
    """`base`, one of whose callbacks counts down."""

    base: Any
    callback: str
    countdown: Any

    def check(self, site: Site) -> str | None:
        self._called("check")
        return self.base.check(site)

    def replacement(self, site: Site) -> Replacement | Rewiring:
        self._called("replacement")
        return self.base.replacement(site)

    def _called(self, callback: str) -> None:
        if callback == self.callback:
            self.countdown.tick()


class ArmedScale(Scale):
    """Its building or its initialisation counts down."""

    kind: Literal["armed_scale"] = "armed_scale"  # type: ignore[assignment]
    callback: str
    countdown: Any = Field(exclude=True)

    def build(self, dims: Any) -> nn.Module:  # type: ignore[override]
        if self.callback == "build":
            self.countdown.tick()
        return ArmedScaleMixer(self, dims)


class ArmedScaleMixer(ScaleMixer):
    def inherit(self, *_: Any, **__: Any) -> None:
        if self.config.callback == "initialise":
            self.config.countdown.tick()


class ArmedGate(Gate):
    """As `ArmedScale`, of a gate."""

    kind: Literal["armed_gate"] = "armed_gate"  # type: ignore[assignment]
    callback: str
    countdown: Any = Field(exclude=True)

    def build(self, dims: JoinerDims) -> nn.Module:
        if self.callback == "build":
            self.countdown.tick()
        return ArmedGateModule(self, dims.dim)


class ArmedGateModule(GateModule):
    def __init__(self, config: ArmedGate, dim: int) -> None:
        super().__init__(dim)
        self.config = config

    def inherit(self, *_: Any, **__: Any) -> None:
        if self.config.callback == "initialise":
            self.config.countdown.tick()


def whole_state(model: nn.Module, graph: ModelGraph) -> dict[str, Any]:
    """Everything that an edit could have changed: tensors and their places, modules, attributes, classes, graphs."""
    return {
        "tensors": [(name, t.data_ptr(), t._version) for name, t in model.state_dict(keep_vars=True).items()],
        "values": {name: t.clone() for name, t in model.state_dict().items()},
        "modules": {path: (id(m), type(m), list(_attributes(m))) for path, m in model.named_modules()},
        "graphs": {path: [_nodes(r.graph) for r in scope.recordings] for path, scope in graph.scopes.items()},
        "view": (dict(graph.view.nodes(data=True)), sorted(map(str, graph.view.edges(data=True)))),
        "random": torch.get_rng_state(),
    }


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        is_dict = isinstance(value, dict)
        yield name, [(k, id(v)) for k, v in value.items()] if is_dict else id(value)


def _nodes(graph: torch.fx.Graph) -> list[tuple[Any, ...]]:
    return [(n.name, n.op, n.target, str(n.args), str(n.kwargs), _meta(n)) for n in graph.nodes]


def _meta(node: torch.fx.Node) -> list[tuple[str, Any]]:
    return sorted((key, str(getattr(value, "shape", value))) for key, value in node.meta.items())
