"""Rewriting against `torch.fx.subgraph_rewriter.replace_pattern`: the same pattern in the same model, in one run.

Usage: python benchmarks/rewrite.py [--json] [--save]

The model has one site after the other, tanh(sigmoid(x)) on a residual stream. Both replace each by one operation:
torch.fx in its graph, in place; surgery by a module of its own for each site, in a copy of the model, after telling roles
and validating at several sizes. Tracing is counted on neither side. Each time is the best of as many runs as fit into a
few seconds. The last line with --json is {"sites": {"100": {"seconds": s, "fx_seconds": s}, ...}}; --save keeps it in
results/.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from machine import machine, save
from torch import fx, nn
from torch.fx.subgraph_rewriter import replace_pattern

import surgery
from surgery.operators import JoinerDims, OperatorConfig
from surgery.rewrite import Call, New, Rewiring, Rule, Site, chain, node

SITES = (100, 1000, 3000)
WIDTH = 8
SECONDS = 3.0


class Chain(nn.Module):
    """`sites` times tanh(sigmoid(x)) on a residual stream."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.sites = sites
        self.proj_in = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.proj_in(x)
        for _ in range(self.sites):
            x = x + torch.tanh(torch.sigmoid(x))
        return x


class Softsign(OperatorConfig):
    kind: Literal["softsign"] = "softsign"

    def build(self, _dims: Any) -> nn.Module:
        return nn.Softsign()

    def flops(self, _dims: Any, _batch: int, _tokens: int) -> int:
        return 0

    def flops_mixing(self, _dims: Any, _batch: int, _tokens: int) -> int:
        return 0


class Simplify(Rule):
    def replacement(self, site: Site) -> Rewiring:  # noqa: ARG002
        return Rewiring(
            modules={"softsign": New(operator=Softsign(), dims=JoinerDims(dim=WIDTH))},
            calls=(Call(name="new", module="softsign", arguments={"input": "a(0)"}),),
            results={"b": "new"},
        )


RULE = Simplify(pattern=chain(node(function="sigmoid"), node(function="tanh")))


def pattern(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(torch.sigmoid(x))


def replacement(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.softsign(x)


def best(prepare: Callable[[], Any], run: Callable[[Any], Any]) -> float:
    """The shortest time of `run` on what `prepare` gives, in seconds."""
    times: list[float] = []
    while not times or sum(times) < SECONDS:
        given = prepare()
        start = time.perf_counter()
        run(given)
        times.append(time.perf_counter() - start)
    return min(times)


def compare(sites: int) -> dict[str, float]:
    """The figures of one model, after both have been seen to give the same; a line about them goes to stderr."""
    model, x = Chain(sites), torch.randn(2, 4, WIDTH)
    rewritten, symbolic = surgery.rewrite(model, [RULE], {"x": x}), fx.symbolic_trace(model)
    matches = replace_pattern(symbolic, pattern, replacement)
    assert len(matches) == sites
    assert torch.equal(rewritten(x), symbolic(x))
    row = {
        "seconds": best(lambda: surgery.trace(model, {"x": x}), lambda graph: surgery.rewrite(graph, [RULE])),
        "fx_seconds": best(lambda: fx.symbolic_trace(model), lambda m: replace_pattern(m, pattern, replacement)),
    }
    ratio = row["fx_seconds"] / row["seconds"]
    print(f"{sites:5} sites: {row['seconds']:.3f} s, {1e6 * row['seconds'] / sites:.0f} us a site; "
          f"torch.fx {row['fx_seconds']:.3f} s, {ratio:.1f} x", file=sys.stderr)  # fmt: skip
    return row


def main() -> None:
    rows = {str(sites): compare(sites) for sites in SITES}
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    if "--save" in sys.argv:
        print(save("rewrite", {"sites": rows}))
    if "--json" in sys.argv:
        print(json.dumps({"sites": rows}))


if __name__ == "__main__":
    main()
