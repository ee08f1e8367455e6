"""What other rewrite engines get wrong without failing: shared modules, lost metadata, stale shapes, silence."""

from __future__ import annotations

import inspect
import itertools
import pickle
import re
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import fx, nn

import surgery
from surgery.errors import MatchError, RewriteError
from surgery.graph import ModelGraph
from surgery.operators import HyenaX
from surgery.rewriting import all_layers, chain, commit, every, find_sites, fork, indices, node, plan
from surgery.rules import drop_blocks, duplicate_blocks, mlp_ratio, parallel_pairs, replace_attention
from surgery.testing import ModelSpec, build, inputs, transformers
from tests.compat.models import FAMILIES, original
from tests.compat.models import inputs as family_inputs
from tests.rewriting.gates import GateMLP, GateModule
from tests.rewriting.operators import FixedLength, Narrow, Scale, ScaleMixer
from tests.rewriting.test_failures import SPEC, ScaleOf, gate, swap
from tests.tracing.test_exact import assert_same

EXAMPLE = inputs(SPEC, (2, 4, 3))
RULES = [drop_blocks(layers=indices(0)), swap(), gate()]


# -- one module each ---------------------------------------------------------------------------------------------------


def test_each_match_gets_a_module_of_its_own():
    student = surgery.rewrite(build(SPEC), [ScaleOf(pattern=node("self_attention")), GateMLP()], EXAMPLE)
    copied = surgery.rewrite(build(SPEC), [duplicate_blocks(layers=all_layers())], EXAMPLE)
    for kind, where, count in ((ScaleMixer, student, 3), (GateModule, student, 3), (transformers.Block, copied, 6)):
        new = [module for module in where.modules() if isinstance(module, kind)]
        assert len(new) == count
        pointers = [p.data_ptr() for module in new for p in module.parameters()]
        assert len(set(pointers)) == len(pointers)


def test_a_module_in_two_places_is_replaced_in_both_or_in_each_by_its_own():
    for shared, is_one in (("together", True), ("apart", False)):
        model = build(SPEC)
        model.blocks[2].attn = model.blocks[1].attn
        rule = ScaleOf(pattern=node("self_attention"), layers=indices(1, 2), shared=shared)
        student = surgery.rewrite(model, [rule], EXAMPLE)
        assert [type(student.blocks[n].attn) for n in (1, 2)] == [ScaleMixer] * 2
        assert (student.blocks[1].attn is student.blocks[2].attn) is is_one


# -- matched by what they are ------------------------------------------------------------------------------------------

# Names of projections stay: the weights that a new operator inherits are read by them, though no rule matches by them.
RENAMED = {"attn": "beta", "mlp": "gamma", "blocks": "things", "norm": "delta", "Block": "Piece",
           "TinyAttention": "Other", "MLP": "Third"}  # fmt: skip


def renamed(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The model with other names of attributes and classes."""
    source = inspect.getsource(transformers)
    for old, new in RENAMED.items():
        source = re.sub(
            rf"(?<=self\.){old}\b|\b{old}\(", lambda found, new=new: found[0].replace(found[0].rstrip("("), new), source
        )
    module = ModuleType("renamed_strategies")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, module.__name__, "exec", dont_inherit=True), vars(module))
    torch.manual_seed(0)
    return module.TinyTransformer(spec).eval()


def test_a_rule_matches_what_a_module_does_whatever_it_is_called(monkeypatch):
    model, example = build(SPEC), EXAMPLE
    other = renamed(SPEC, monkeypatch)
    assert not {"attn", "blocks", "mlp"} & {part for name, _ in other.named_modules() for part in name.split(".")}
    assert_same(model(**example), other(**example))
    graphs = [surgery.trace(each, example) for each in (model, other)]
    for pattern in (node("self_attention"), node("mlp"), chain(node("self_attention"), node(function="add"))):
        ours, theirs = ([s.operator.layer for s in find_sites(g, pattern)] for g in graphs)
        assert ours == theirs != []
    students = [surgery.rewrite(graph, RULES) for graph in graphs]
    assert_same(*(student(**example) for student in students))


def test_one_rule_does_for_all_families():
    for name in FAMILIES:
        student = surgery.rewrite(original(name), [GateMLP()], family_inputs(name))
        assert_same(original(name)(**family_inputs(name)).sample, student(**family_inputs(name)).sample)


# -- graphs say what the student does ----------------------------------------------------------------------------------


def assert_graph_tells_the_truth(model: nn.Module, graph: ModelGraph, example: dict[str, Any]) -> None:
    """Every module that is called has its metadata, and gives the shape and dtype that they say."""
    said = {
        f"{path}.{each.target}".lstrip("."): each.meta
        for path, scope in graph.scopes.items()
        for each in scope.graph.find_nodes(op="call_module")
    }
    assert all({"val", "module_class", "params", "flops"} <= meta.keys() for meta in said.values())
    seen = set()

    def look(path: str, module: nn.Module, result: Any) -> None:
        assert said[path]["module_class"].__name__ == type(module).__name__
        if isinstance(result, torch.Tensor):
            assert (result.shape, result.dtype) == (said[path]["val"].shape, said[path]["val"].dtype), path
        seen.add(path)

    for path in said:
        model.get_submodule(path).register_forward_hook(lambda m, _, result, path=path: look(path, m, result))
    with torch.no_grad():
        model(**example)
    for path in said:
        model.get_submodule(path)._forward_hooks.clear()
    assert seen == set(said)


STUDENTS = {
    "swap and gate": RULES,
    "narrower mlp": [mlp_ratio(0.5, layers=~indices(0))],
    "pairs": [parallel_pairs(layers=indices(1))],
    "copies": [duplicate_blocks(layers=every(2))],
}


@pytest.mark.parametrize("rules", STUDENTS.values(), ids=STUDENTS)
def test_the_trace_of_a_student_has_its_metadata_and_shapes(rules):
    student = surgery.rewrite(build(SPEC), rules, EXAMPLE)
    for size in ((2, 4, 3), (1, 6, 2)):
        example = inputs(SPEC, size, seed=1)
        assert_graph_tells_the_truth(student, surgery.trace(student, example), example)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_trace_of_a_student_of_diffusers_too(name):
    student = surgery.rewrite(original(name), [GateMLP()], family_inputs(name))
    assert_graph_tells_the_truth(student, surgery.trace(student, family_inputs(name)), family_inputs(name))


# -- nothing is silent, nothing is late --------------------------------------------------------------------------------


def test_a_typo_or_no_match_is_an_error_and_nothing_is_done():
    model = build(SPEC)
    for rule, words in (
        (ScaleOf(pattern=node(module_class="TinyAtention")), "did you mean 'TinyAttention'"),
        (ScaleOf(pattern=node("cross_attention")), "no cross-attention to replace in TinyTransformer"),
        (replace_attention(Scale(), layers=indices(1, 7)), "no such layer: 7; the model's layers are 0 to 2"),
        (replace_attention(Scale(), layers=every(7)), "3 matched and were skipped"),
    ):
        with pytest.raises(MatchError, match=words):
            surgery.rewrite(model, [swap(), rule], EXAMPLE)


@pytest.mark.parametrize("operator", [Narrow(), FixedLength(tokens=4)])
def test_what_does_not_fit_is_refused_before_the_commit(operator, monkeypatch):
    monkeypatch.setattr(commit, "commit", lambda *_: pytest.fail("committed"))
    for run in (plan, commit.rewrite):
        with pytest.raises(RewriteError, match=r"blocks\.1\.attn: \w+ (gives|fails)"):
            run(build(SPEC), [swap(operator)], EXAMPLE)


class FixedBatch(FixedLength):
    """Works at the traced batch size only."""

    kind: Any = "fixed_batch"

    def build(self, dims: Any) -> Any:
        return FixedBatchMixer(self, dims)


class FixedBatchMixer(ScaleMixer):
    def mix(self, x_BND: torch.Tensor, *, grid: tuple[int, ...] | None = None) -> torch.Tensor:
        return x_BND.view(2, -1, x_BND.shape[-1])


@pytest.mark.parametrize("size", [(2, 4, 3), (2, 1, 1)])
def test_a_fixed_view_is_found_while_planning(size):
    with pytest.raises(RewriteError, match=r"blocks\.1\.attn: fixed_batch (gives|fails)"):
        surgery.plan(build(SPEC), [swap(FixedBatch(tokens=4))], inputs(SPEC, size))


# -- commutative operands ----------------------------------------------------------------------------------------------


class Sums(nn.Module):
    """The same sum written both ways, in a row of twelve."""

    def __init__(self, orders: tuple[bool, ...]) -> None:
        super().__init__()
        self.orders = orders
        self.maps = nn.ModuleList(nn.Linear(4, 4) for _ in orders)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for is_first, each in zip(self.orders, self.maps, strict=True):
            mapped = each(x)
            x = mapped + x if is_first else x + mapped
        return x


@pytest.mark.parametrize("orders", list(itertools.product((True, False), repeat=12))[::455])
def test_one_pattern_matches_operands_in_either_order(orders):
    graph = surgery.trace(Sums(orders), {"x": torch.randn(2, 3, 4)})
    branch = chain(node(module_class="Linear"), node(function="add"))
    assert len(list(branch.graphs())) == 1
    assert len(find_sites(graph, branch)) == 12
    twelve = chain(*[node(function="add")] * 12)
    assert len(list(twelve.graphs())) == 1
    assert len(find_sites(graph, twelve)) == 1
    both = fork(node(function="add"), node(function="add"), node(module_class="Linear"))
    assert len(find_sites(graph, both)) == 11


# -- artifacts ---------------------------------------------------------------------------------------------------------


def test_an_artifact_holds_no_pickle_and_loads_without(tmp_path, monkeypatch):
    rules = [replace_attention(HyenaX(), layers=indices(1)), drop_blocks(layers=indices(0))]
    student = surgery.rewrite(original("dit"), rules, family_inputs("dit"))

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("pickled")

    for module, name in itertools.product(
        (pickle, torch), ("load", "dump", "loads", "dumps", "save", "Unpickler", "Pickler")
    ):
        monkeypatch.setattr(module, name, refuse, raising=False)
    folder = surgery.save(student, tmp_path / "student")
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "surgery.json"]
    loaded = surgery.load(folder)
    assert_same(student(**family_inputs("dit")).sample, loaded(**family_inputs("dit")).sample)


def test_graphs_are_of_fx_and_their_nodes_keep_their_names():
    student = surgery.rewrite(build(SPEC), RULES, EXAMPLE)
    for scope in surgery.trace(student, EXAMPLE).scopes.values():
        scope.graph.lint()
        assert all(isinstance(each, fx.Node) for each in scope.graph.nodes)


@pytest.mark.parametrize("rule", [drop_blocks(layers=indices(0)), duplicate_blocks(layers=indices(0))])
def test_a_block_that_is_called_twice_is_edited_at_both_calls(rule):
    spec = ModelSpec(2, 4, True, SPEC.blocks, shared=True, branch=5)
    model = build(spec)
    student = surgery.rewrite(model, [rule], EXAMPLE)
    count = {"DropBlocks": 0, "DuplicateBlocks": 2}[rule.name]
    expected = build(spec)
    expected.blocks = nn.ModuleList([*[model.blocks[0]] * count, model.blocks[1], *[model.blocks[0]] * count])
    assert_same(expected(**EXAMPLE), student(**EXAMPLE))
    assert_same(model(**EXAMPLE), surgery.undo(student)(**EXAMPLE))
