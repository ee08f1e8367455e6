"""Rewriting against `torch.fx.subgraph_rewriter.replace_pattern`: the same pattern in the same model, in one run.

Usage: python benchmarks/rewrite.py [--json] [--save]

The model is a stack of pre-norm transformer blocks written in functions, whose weights it holds itself, so that one
pattern can be given to both: the linear, gelu and linear of each MLP. torch.fx puts a call of relu in the place of gelu,
in its graph; surgery a module of its own for each site, in a copy of the model, validated at several sizes. Tracing is
counted on neither side. Each time is the best of as many runs as fit into a few seconds. The last line with --json is
{"sites": {"100": {"seconds": s, "fx_seconds": s}, ...}}; --save keeps it in results/.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from machine import machine, save
from torch import fx, nn
from torch.fx.subgraph_rewriter import replace_pattern

import surgery
from surgery.operators import JoinerDims, OperatorConfig
from surgery.rewriting import Call, New, Rewiring, Rule, Site, chain, node
from surgery.tracing.tracer import record

SITES = (100, 1000, 3000)
WIDTH = 8
SECONDS = 3.0


class Stack(nn.Module):
    """`sites` transformer blocks of width `WIDTH` and two heads."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        for name in ("q", "k", "v", "o", "up", "down"):
            weights = (torch.randn(WIDTH, WIDTH) / WIDTH for _ in range(sites))
            setattr(self, name, nn.ParameterList(weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for q, k, v, o, up, down in zip(self.q, self.k, self.v, self.o, self.up, self.down, strict=True):
            h = self.norm(x)
            heads = (F.linear(h, weight).unflatten(-1, (2, WIDTH // 2)).transpose(1, 2) for weight in (q, k, v))
            x = x + F.linear(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(-2), o)
            x = x + F.linear(F.gelu(F.linear(self.norm(x), up)), down)
        return x


class ReLU(OperatorConfig):
    kind: Literal["relu"] = "relu"

    def build(self, dims: Any) -> nn.Module:  # noqa: ARG002
        return nn.ReLU()

    def flops(self, dims: Any, batch: int, tokens: int) -> int:  # noqa: ARG002
        return 0

    def flops_mixing(self, dims: Any, batch: int, tokens: int) -> int:  # noqa: ARG002
        return 0


class Simplify(Rule):
    def replacement(self, site: Site) -> Rewiring:  # noqa: ARG002
        return Rewiring(
            modules={"relu": New(operator=ReLU(), dims=JoinerDims(dim=WIDTH))},
            calls=(Call(name="activated", module="relu", arguments={"input": "a"}),),
            results={"b": "activated"},
            keeps=("c",),
        )


RULE = Simplify(pattern=chain(node(function="linear"), node(function="gelu"), node(function="linear")))


def pattern(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return F.linear(F.gelu(F.linear(x, up)), down)


def replacement(x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    return F.linear(F.relu(F.linear(x, up)), down)


def best(prepare: Callable[[], Any], run: Callable[[Any], Any]) -> tuple[float, Any]:
    """The shortest time of `run` on what `prepare` gives, in seconds, and what it gave the first time."""
    times: list[float] = []
    results = []
    while not times or sum(times) < SECONDS:
        given = prepare()
        start = time.perf_counter()
        result = run(given)
        times.append(time.perf_counter() - start)
        results = results or [result]
    return min(times), results[0]


def compare(sites: int) -> dict[str, float]:
    """The figures of one model, where both give the same; a line about them goes to stderr."""
    model, x = Stack(sites), torch.randn(2, 4, WIDTH)
    graph, symbolic = surgery.trace(model, {"x": x}), fx.symbolic_trace(model)

    def untouched() -> surgery.ModelGraph:
        return surgery.ModelGraph(model, graph.scopes, record)  # what it finds out about itself, it finds out anew

    def replaced(module: fx.GraphModule) -> fx.GraphModule:
        assert len(replace_pattern(module, pattern, replacement)) == sites
        return module

    seconds, student = best(untouched, lambda graph: surgery.rewrite(graph, [RULE]))
    fx_seconds, rewritten = best(lambda: copy.deepcopy(symbolic), replaced)
    assert torch.equal(student(x), rewritten(x))
    ratio = fx_seconds / seconds
    print(f"{sites:5} sites: {seconds:.3f} s, {1e6 * seconds / sites:.0f} us a site; "
          f"torch.fx {fx_seconds:.3f} s, {ratio:.1f} x", file=sys.stderr)  # fmt: skip
    return {"seconds": seconds, "fx_seconds": fx_seconds}


def main() -> None:
    rows = {str(sites): compare(sites) for sites in SITES}
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if "--save" in sys.argv:
        print(save("rewrite", {"sites": rows}))
    if "--json" in sys.argv:
        print(json.dumps({"sites": rows}))


if __name__ == "__main__":
    main()
