"""Which modules are the layers of a model, however it keeps them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import surgery
from surgery.operators import HyenaX
from surgery.rewriting import Rule, every, indices
from surgery.rules import drop_blocks, duplicate_blocks, mlp_ratio, parallel_pairs, replace_attention, share_blocks
from surgery.testing import check_rule
from tests.classes import all_cases
from tests.nightly import thinned

WIDTH = 8
CASES = {case.name: case for case in all_cases()}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        heads = (p(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for p in (self.to_q, self.to_k, self.to_v))
        return self.to_out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))


class Residual(nn.Module):
    """One sublayer; subclasses only differ in their class."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(WIDTH), inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


class Attending(Residual):
    pass


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(WIDTH), Attention(), mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.mlp(x)


class Stack(nn.Module):
    """Calls the items of a list one after the other."""

    def __init__(self, *items: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(items)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Parts(nn.Module):
    """A list of lists, whose items the root itself calls and adds."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList((nn.LayerNorm(WIDTH), Attention(), mlp())) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for norm, attention, wide in self.layers:
            x = x + attention(norm(x))
            x = x + wide(x)
        return x


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection, self.first, self.second, self.third = mlp(), Block(), Block(), Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.second(self.first(self.projection(x))))


class Around(nn.Module):
    """A list of projections and a whole model, with something before and after."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.projections = nn.ModuleList((mlp(), mlp()))
        self.before, self.body, self.after = mlp(), body, nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for projection in self.projections:
            x = projection(x)
        return self.after(self.body(self.before(x)))


def sublayers() -> Stack:
    return Stack(Attending(Attention()), Residual(mlp()))


def like_sublayers() -> nn.Sequential:
    return nn.Sequential(Residual(Attention()), Residual(mlp()))


def ordered(**items: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(items))


STACKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "list": (lambda: Stack(*(Block() for _ in range(3))), [f"layers.{n}" for n in range(3)]),
    "sequential": (lambda: nn.Sequential(nn.Sequential(Block(), Block(), Block()), nn.Linear(WIDTH, 4)),
                   [f"0.{n}" for n in range(3)]),
    "inside": (lambda: Around(Stack(Block(), Block(), Block())), [f"body.layers.{n}" for n in range(3)]),
    "stages": (lambda: Around(Stack(Stack(Block(), Block()), Stack(Block()))),
               ["body.layers.0.layers.0", "body.layers.0.layers.1", "body.layers.1.layers.0"]),
    "sublayers": (lambda: Stack(sublayers(), sublayers(), sublayers()), [f"layers.{n}" for n in range(3)]),
    "sequential stages": (lambda: Around(Stack(nn.Sequential(Block(), Block()), nn.Sequential(Block()))),
                          ["body.layers.0.0", "body.layers.0.1", "body.layers.1.0"]),
    "sequentials by name": (lambda: Around(ordered(trunk=ordered(a=Block(), b=Block()), head=ordered(c=Block()))),
                            ["body.trunk.a", "body.trunk.b", "body.head.c"]),
    "a stem and stages": (lambda: nn.Sequential(Residual(mlp()), nn.Sequential(Block(), Block(), Block())),
                          [f"1.{n}" for n in range(3)]),
    "a residual step between stages": (
        lambda: nn.Sequential(nn.Sequential(Block(), Block()), Residual(mlp()), nn.Sequential(Block())),
        ["0.0", "0.1", "2.0"],
    ),
    "sequential sublayers": (lambda: nn.Sequential(*(like_sublayers() for _ in range(3))), [f"{n}" for n in range(3)]),
    "parts": (Parts, [f"layers.{n}" for n in range(3)]),
    "named": (Named, ["first", "second", "third"]),
}  # fmt: skip
WITH_BLOCKS = sorted(STACKS.keys() - {"parts"})
OPERATORS = [replace_attention(HyenaX(), layers=every(2), inherit="random"), mlp_ratio(6, layers=indices(0, 2))]
BLOCKS = [parallel_pairs(), drop_blocks(layers=indices(1)), duplicate_blocks(layers=indices(0)), share_blocks(2)]


def example() -> dict[str, Tensor]:
    return {"x": torch.randn(2, 5, WIDTH)}


def made(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    model = STACKS[name][0]()
    return model, {"input": example()["x"]} if isinstance(model, nn.Sequential) else example()


@pytest.mark.parametrize("name", STACKS)
def test_layers_are_found_however_they_are_kept(name: str) -> None:
    graph = surgery.trace(*made(name))
    attention = {o.layer: o.path for o in graph.operators("self_attention")}
    assert list(attention) == [0, 1, 2]
    assert all(attention[n].startswith(path) for n, path in enumerate(STACKS[name][1]))


@pytest.mark.parametrize(("name", "rule"), thinned(product(STACKS, OPERATORS), 3))
def test_operators_in_such_layers_are_replaced(name: str, rule: Rule) -> None:
    model, inputs = made(name)
    layers = [edit.layer for edit in surgery.plan(model, [rule], inputs).edits]
    assert layers == ([1] if rule.layers == every(2) else [0, 2])
    check_rule(rule, model=model, inputs=inputs)


@pytest.mark.parametrize(("name", "rule"), thinned(product(WITH_BLOCKS, BLOCKS), 3))
def test_such_layers_are_blocks(name: str, rule: Rule) -> None:
    model, inputs = made(name)
    assert surgery.plan(model, [rule], inputs).edits
    check_rule(rule, model=model, inputs=inputs)


def test_a_copy_of_a_block_is_a_layer() -> None:
    model, inputs = made("inside")
    student = surgery.rewrite(model, [duplicate_blocks(layers=indices(1))], inputs)
    found = [o.path for o in surgery.trace(student, inputs).operators("self_attention") if o.layer in (1, 2)]
    assert found == ["body.layers.1.attn", "body.layers_1_copy.attn"]
    student = surgery.rewrite(student, [replace_attention(HyenaX(), layers=indices(2))], inputs)
    assert type(student.get_submodule("body.layers_1_copy.attn")).__name__ == "HyenaXMixer"
    student = surgery.rewrite(student, [drop_blocks(layers=indices(2))], inputs)
    assert [o.layer for o in surgery.trace(student, inputs).operators("self_attention")] == [0, 1, 2]


@pytest.mark.parametrize("name", ["HiDreamImageTransformer2DModel", "BriaFiboTransformer2DModel"])
def test_lists_of_projections_are_no_layers(name: str) -> None:
    graph = surgery.trace(CASES[name].model(), CASES[name].example())
    assert {o.layer for o in graph.operators() if o.path.startswith("caption_projection")} <= {None}
    assert next(o for o in graph.operators() if o.layer == 0).path.split(".")[1] == "0"
