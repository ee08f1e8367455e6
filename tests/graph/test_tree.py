"""The module_tree of a model: what stands in it, and its drawing."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator

import torch
from diffusers import DiTTransformer2DModel
from hypothesis import given

import surgery
from surgery.graph.show.diagram import draw_model
from surgery.graph.show.tree import Entry, module_tree
from surgery.testing import build, inputs
from surgery.testing.strategies import model_specs, sizes
from tests.analysis.test_roles import CASES, working
from tests.nightly import examples


def operators(entry: Entry, times: int = 1) -> Iterator[tuple[str, int]]:
    """Role of every operator in and below `entry`, and how often it stands there."""
    if entry.operator is not None:
        yield entry.operator.role, times * entry.count
    for child in entry.children:
        yield from operators(child, times * entry.count)


def folded(entry: Entry) -> Counter[str]:
    roles: Counter[str] = Counter()
    for role, times in operators(entry):
        roles[role] += times
    return roles


def dit(layers: int) -> Entry:
    model = DiTTransformer2DModel(num_layers=layers, num_attention_heads=2, attention_head_dim=8, sample_size=8)
    example = {"hidden_states": torch.randn(1, 4, 8, 8), "timestep": torch.zeros(1, dtype=torch.long),
               "class_labels": torch.zeros(1, dtype=torch.long)}  # fmt: skip
    return module_tree(surgery.trace(model.eval(), example).scopes)


def test_blocks_that_are_alike_stand_once():
    few, many = dit(3), dit(28)
    names = [child.name for child in many.children]
    assert [(b.name, b.count) for b in many.children[names.index("transformer_blocks")].children] == [("0-27", 28)]
    assert len(list(operators(few))) == len(list(operators(many)))
    assert ET.fromstring(draw_model(many)).get("height") == ET.fromstring(draw_model(few)).get("height")


def test_blocks_that_differ_are_not_folded():
    case = CASES["SD3Transformer2DModel"]
    top = module_tree(surgery.trace(case.model(), case.example()).scopes)
    blocks = next(child for child in top.children if child.name == "transformer_blocks")
    assert [(b.name, b.count) for b in blocks.children] == [("0-1", 2), ("2", 1)]


@examples(15)
@given(model_specs(working), sizes)
def test_no_operator_is_lost_by_folding_and_each_is_drawn(spec, size):
    graph = surgery.trace(build(spec), inputs(spec, size))
    top = module_tree(graph.scopes)
    assert folded(top) == Counter(o.role for o in graph.operators())
    assert (top.params, top.flops) == (sum(p.numel() for p in graph.model.parameters()), graph.flops)
    drawing = ET.fromstring(draw_model(top))
    sums = drawing.findall(".//{*}circle")
    assert len(sums) == sum(1 for role, _ in operators(top) if role == "residual")
    words = Counter(text.text for text in drawing.findall(".//{*}text[@style]"))
    for role in ("self_attention", "cross_attention", "mlp", "norm", "modulation", "embedding"):
        assert words[role.replace("_", "-")] == sum(1 for other, _ in operators(top) if other == role)
