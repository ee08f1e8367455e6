"""Hypothesis strategies: random models, patterns, rules, and cases of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import networkx as nx
from hypothesis import strategies as st

from surgery.analysis.roles import Role
from surgery.graph.view import Key
from surgery.operators import (
    ConcatProject,
    FullAttention,
    HyenaSE,
    HyenaX,
    HyenaY,
    LinearAttention,
    SlidingWindow,
    SumDeltas,
    WeightedSum,
    ZeroJoin,
)
from surgery.rewriting import Pattern, Rule, Selection, all_layers, block, chain, every, fork, indices, node, repeated
from surgery.rewriting.pattern import AnyOf, Except, GraphPattern, NodePattern, NodeTest, names
from surgery.rewriting.pattern_forms import consecutive
from surgery.rules import drop_blocks, duplicate_blocks, mlp_ratio, parallel_pairs, replace_attention, share_blocks
from surgery.testing.case import Case
from surgery.testing.transformers import BlockSpec, ModelSpec, TinyTransformer, build, inputs

# -- models --------------------------------------------------------------------------------------------------------

blocks = st.builds(
    BlockSpec,
    attention=st.sampled_from(["separate", "fused", "cross", "none"]),
    mlp=st.sampled_from(["module", "inline", "gated", "none"]),
    norm=st.sampled_from(["layer", "rms", "none"]),
    modulated=st.booleans(),
    in_place=st.booleans(),
)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 4))


def model_specs(block: st.SearchStrategy[BlockSpec] = blocks, shared: bool = True) -> st.SearchStrategy[ModelSpec]:
    """Specs of one to four blocks, which may all be alike."""
    alike = st.builds(lambda each, count: (each,) * count, block, st.integers(2, 4))
    return st.builds(
        ModelSpec,
        heads=st.integers(1, 3),
        head_dim=st.integers(1, 5),
        bias=st.booleans(),
        blocks=alike | st.lists(block, min_size=1, max_size=4).map(tuple),
        shared=st.booleans() if shared else st.just(False),
        branch=st.integers(1, 12),
    )


def models() -> st.SearchStrategy[TinyTransformer]:
    """Random transformers; `model.spec` says what `inputs` of a model must know."""
    return model_specs().map(build)


# -- patterns ------------------------------------------------------------------------------------------------------

_ROLES: tuple[Role, ...] = ("self_attention", "cross_attention", "mlp", "norm", "modulation", "residual", "embedding")
_CLASSES = ("Linear", "GELU", "LayerNorm", "RMSNorm", "TinyAttention", "MLP", "Block", "Dropout")
_FUNCTIONS = ("add", "mul", "silu", "gelu", "chunk", "getitem", "reshape", "permute", "scaled_dot_product_attention")

_single = st.one_of(
    st.sampled_from(_ROLES).map(lambda role: node(role)),
    st.sampled_from(_CLASSES).map(lambda name: node(module_class=name)),
    st.sampled_from(_FUNCTIONS).map(lambda name: node(function=name)),
    st.sampled_from(_ROLES).flatmap(
        lambda role: st.sampled_from(_FUNCTIONS).map(lambda f: node(function=f, within=role))
    ),
    st.sampled_from(("TinyTransformer", "Block", "TinyAttention", "MLP")).map(lambda name: node(scope_class=name)),
    st.just(block()),
    st.just(node()),
)
tests: st.SearchStrategy[NodeTest] = st.one_of(
    _single,
    _single.map(lambda test: Except(test=test)),
    st.lists(_single, min_size=2, max_size=3).map(lambda options: AnyOf(options=tuple(options))),
)


def patterns() -> st.SearchStrategy[Pattern]:
    """Patterns of every kind, in the words of the random models; many match nothing, or nearly everything."""
    graphs = st.one_of(
        st.lists(tests, min_size=2, max_size=4).map(lambda t: chain(*t)),
        st.lists(tests, min_size=3, max_size=4).map(lambda t: fork(*t)),
        st.builds(consecutive, tests, st.integers(1, 3)),
        _graphs(),
    )
    conditioned = graphs.flatmap(_with_conditions)
    runs = st.builds(
        lambda test, least, more: repeated(test, least, None if more is None else least + more),
        tests, st.integers(1, 3), st.none() | st.integers(0, 2),
    )  # fmt: skip
    kinds = st.one_of(tests, graphs, conditioned, runs)
    either = st.tuples(tests | graphs, tests | conditioned).map(lambda both: both[0] | both[1])
    return kinds | either


@st.composite
def patterns_in(draw: st.DrawFn, view: nx.MultiDiGraph) -> Pattern:
    """Patterns of nodes that there are in the view of a model, so that they match unless a condition forbids it."""
    keys = [draw(st.sampled_from(sorted(view.nodes)))]
    for _ in range(draw(st.integers(0, 3))):
        near = sorted({other for key in keys for other in (*_readers(view, key), *_sources(view, key))} - set(keys))
        if near:
            keys.append(draw(st.sampled_from(near)))
    called = dict(zip(keys, names(), strict=False))
    edges = [(called[a], called[b]) for a in keys for b in _readers(view, a) if b in called]
    # Between nodes that have several edges, not all of these are asked for.
    tree = nx.minimum_spanning_tree(nx.Graph(edges)).edges if edges else ()
    kept = [edge for edge in edges if edge in tree or draw(st.booleans())]
    tests: dict[str, NodeTest] = {name: draw(_tests_of(view.nodes[key])) for key, name in called.items()}
    pattern = GraphPattern(nodes=tests, edges=tuple(kept))
    return draw(st.just(pattern) | _with_conditions(pattern))


def _readers(view: nx.MultiDiGraph, key: Key) -> list[Key]:
    return [other for _, other, kind in view.out_edges(key, data="kind") if kind == "flow"]


def _sources(view: nx.MultiDiGraph, key: Key) -> list[Key]:
    return [other for other, _, kind in view.in_edges(key, data="kind") if kind == "flow"]


def _tests_of(attributes: Any) -> st.SearchStrategy[NodePattern]:
    """Tests that hold of a node of the view, of some of its attributes."""
    asked = ("role", "module_class", "function", "within", "scope_class")
    there = {name: attributes[name] for name in asked if attributes[name] is not None}
    if not there:
        return st.just(node())
    return st.sets(st.sampled_from(sorted(there))).map(lambda some: NodePattern(**{n: there[n] for n in some}))


@st.composite
def _graphs(draw: st.DrawFn) -> GraphPattern:
    """Connected graphs of up to four nodes, with edges from earlier to later ones."""
    called = [name for name, _ in zip(names(), range(draw(st.integers(2, 4))), strict=False)]
    edges = {(draw(st.sampled_from(called[:n])), called[n]) for n in range(1, len(called))}
    edges |= {(a, b) for i, a in enumerate(called) for b in called[i + 1 :] if draw(st.integers(0, 5)) == 0}
    return GraphPattern(nodes={name: draw(tests) for name in called}, edges=tuple(sorted(edges)))


@st.composite
def _with_conditions(draw: st.DrawFn, pattern: GraphPattern) -> GraphPattern:
    for _ in range(draw(st.integers(1, 2))):
        add = draw(st.sampled_from((GraphPattern.not_followed_by, GraphPattern.not_preceded_by)))
        pattern = add(pattern, draw(tests), draw(st.none() | st.sampled_from(sorted(pattern.nodes))))
    return pattern


# -- rules ---------------------------------------------------------------------------------------------------------

mixers = st.one_of(
    st.builds(HyenaX, kernel=st.integers(1, 5), causal=st.booleans()),
    st.builds(HyenaSE, kernel=st.integers(1, 5)),
    st.builds(HyenaY, kernel=st.integers(1, 5)),
    st.builds(SlidingWindow, window=st.integers(0, 5), causal=st.booleans()),
    st.builds(LinearAttention),
    st.builds(FullAttention),
)
joiners = st.sampled_from((ConcatProject(), SumDeltas(), WeightedSum(), ZeroJoin()))


def selections(layers: int) -> st.SearchStrategy[Selection]:
    """Selections of some of the layers 0 to `layers` - 1."""
    some = st.lists(st.integers(0, layers - 1), min_size=1, unique=True).map(lambda chosen: indices(*chosen))
    return st.just(all_layers()) | st.just(every(2)) | some


def rules(layers: int = 4) -> st.SearchStrategy[Rule]:
    """Rules of the library for a model of that many layers; not all apply to all models."""
    chosen = selections(layers)
    inherit = st.sampled_from(("projections", "random"))
    families: dict[str, st.SearchStrategy[Rule]] = {
        "attention": st.builds(replace_attention, mixers, layers=chosen, inherit=inherit),
        "mlp": st.builds(mlp_ratio, st.sampled_from((0.5, 1.0, 3.0)), layers=chosen, inherit=inherit),
        "drop": st.builds(drop_blocks, layers=chosen),
        "duplicate": st.builds(duplicate_blocks, layers=chosen),
    }
    if layers > 1:
        families["pairs"] = st.builds(parallel_pairs, joiners, layers=chosen)
        families["share"] = st.builds(share_blocks, st.integers(2, layers), average=st.booleans(), layers=chosen)
    return st.one_of(*families.values())


def rule_sets(layers: int = 4) -> st.SearchStrategy[Sequence[Rule]]:
    """One or two rules to be applied together, which may conflict; see `rules`."""
    alone = rules(layers).map(lambda rule: (rule,))
    return alone | st.tuples(rules(layers), rules(layers))


# -- cases ---------------------------------------------------------------------------------------------------------

Drawn = Callable[[int], st.SearchStrategy[Sequence[Rule]]]


@st.composite
def cases(draw: st.DrawFn, rules: Rule | Drawn = rule_sets, specs: st.SearchStrategy[ModelSpec] | None = None) -> Case:
    """`rules`, or what is drawn for as many layers as the model has, on a random model, with inputs of three sizes."""
    spec = draw(model_specs() if specs is None else specs)
    applied = rules if isinstance(rules, Rule) else draw(rules(len(spec.blocks)))
    calls = [inputs(spec, draw(sizes), seed, bias=draw(st.booleans())) for seed in range(3)]
    return Case(applied, build(spec), *calls)
