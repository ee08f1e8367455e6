"""`torch.compile` takes the traced module whole, and notices what changes after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import surgery
from surgery.rewriting import indices
from surgery.rules import drop_blocks, duplicate_blocks, fuse_projections, parallel_pairs
from tests.compat.models import every_pair, inputs, original, pair
from tests.tracing.test_exact import assert_same


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@every_pair
def test_the_whole_graph_compiles(name, maker):
    model, twin = pair(name, maker)
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    assert_same(model(**inputs(name)), compiled(**inputs(name)))


def test_a_call_that_was_not_recorded_compiles_too():
    model, twin = pair("dit", "original")
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    assert_same(model(**inputs("dit"), return_dict=False), compiled(**inputs("dit"), return_dict=False))


RULES = {
    "dropped": drop_blocks(layers=indices(0)),
    "duplicated": duplicate_blocks(layers=indices(1)),
    "parallel": parallel_pairs(),
    "fused": fuse_projections(),
}


def compilations(model: torch.nn.Module, calls: int = 4) -> int:
    """How many graphs are compiled in some calls of one kind, each with tensors of its own."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        for _ in range(calls):
            call = {key: tensor.clone() for key, tensor in inputs("dit").items()}
            assert_same(compiled(**call, return_dict=False), model(**call, return_dict=False))
    return len(graphs)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_an_edited_graph_is_compiled_as_often_as_the_teacher(rule):
    teacher = original("dit")
    student = surgery.rewrite(teacher, [rule], inputs("dit") | {"return_dict": False})
    assert compilations(student) == compilations(teacher)


def test_a_student_compiled_before_any_call(tmp_path):
    """It leaves compiled code once, to record the call."""
    student = surgery.rewrite(original("dit"), [RULES["dropped"]], inputs("dit"))
    loaded = surgery.load(surgery.save(student, tmp_path))
    assert compilations(loaded, calls=3) <= 2
