"""Grafts come out alone as together, are kept and found again; effects are those of a direct computation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import ArtifactError
from surgery.graph import ModelGraph
from surgery.operators import FullAttention, HyenaX, SlidingWindow
from surgery.progress import SilentProgress
from surgery.recipe import Finetune, Recipe
from surgery.rewriting import every, indices
from surgery.rewriting.commit import commit
from surgery.rules import drop_blocks, mlp_ratio, replace_attention
from surgery.sensitivity import Effect, GraftLibrary, candidates, grafting, grafts, groups_of, put_in, sensitivity
from surgery.sensitivity.library import key_of
from surgery.training.distil import Distil
from surgery.training.source import TrainingData, predict
from tests.training import tiny

FAST = Distil(steps=3, batch_size=8, warmup=1, clip=0.05)
QUIET = SilentProgress()


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return tiny.data()


@pytest.fixture(scope="module")
def graph(data: TrainingData) -> ModelGraph:
    return surgery.trace(tiny.teacher().eval(), data.example(0, "cpu"))


@pytest.fixture(scope="module")
def edits(graph: ModelGraph) -> list:
    rules = [replace_attention(SlidingWindow(window=3)), replace_attention(HyenaX(kernel=3)), mlp_ratio(1.0)]
    return candidates(graph, rules)


def made(graph: ModelGraph, groups, data: TrainingData, library: GraftLibrary | None = None):
    return grafts(graph, groups, data, FAST, seed=0, progress=QUIET, library=library)


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_candidates_are_the_edits_of_each_rule_by_itself(graph, edits):
    layers = len(graph.layers)
    assert len(edits) == 3 * layers
    assert edits[0].path == edits[layers].path  # of two rules, at one site


def test_grafts_come_out_together_as_alone_though_gradients_are_clipped(graph, edits, data):
    groups = [(edit,) for edit in edits]
    together = made(graph, groups, data)
    for group, graft in list(zip(groups, together, strict=True))[::2]:
        (alone,) = made(graph, [group], data)
        assert same(graft.weights, alone.weights)
        assert [record.loss for record in graft.losses] == [record.loss for record in alone.losses]


def test_several_passes_give_what_one_gives(graph, edits, data, monkeypatch):
    groups = [(edit,) for edit in edits[:3]]
    one = made(graph, groups, data)
    monkeypatch.setattr(grafting, "AT_ONCE", 1)
    assert all(same(a.weights, b.weights) for a, b in zip(one, made(graph, groups, data), strict=True))


def test_what_is_in_the_library_is_not_distilled_again(graph, edits, data, tmp_path, monkeypatch):
    library, groups = GraftLibrary(tmp_path), [(edit,) for edit in edits[:2]]
    first = made(graph, groups, data, library)
    assert len(library) == 2
    monkeypatch.setattr(grafting, "distil", None)
    again = made(graph, groups[::-1], data, GraftLibrary(tmp_path))[::-1]
    assert all(same(a.weights, b.weights) and a.losses == b.losses for a, b in zip(first, again, strict=True))


def test_the_key_tells_operator_site_teacher_data_budget_and_seed_apart(graph, edits, data):
    layers = len(graph.layers)
    asked = [((edit,), "t", FAST, 0) for edit in (edits[0], edits[1], edits[layers])]
    asked += [((edits[0],), "u", FAST, 0), ((edits[0],), "t", FAST.model_copy(update={"steps": 4}), 0)]
    asked += [((edits[0],), "t", FAST, 1), ((edits[0], edits[1]), "t", FAST, 0)]
    keys = [key_of(group, teacher, data, config, seed)[0] for group, teacher, config, seed in asked]
    assert len(set(keys)) == len(keys)
    renamed = edits[0].model_copy(update={"rule": "another"})
    assert key_of((renamed,), "t", data, FAST, 0)[0] == keys[0]


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_a_damaged_graft_is_refused_by_name(graph, edits, data, tmp_path, suffix):
    library = GraftLibrary(tmp_path)
    made(graph, [(edits[0],)], data, library)
    (file,) = Path(tmp_path).glob(f"*.{suffix}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if suffix == "safetensors" else content[:-20])
    with pytest.raises(ArtifactError, match="truncated or altered"):
        made(graph, [(edits[0],)], data, library)


def test_effects_are_those_of_a_direct_computation(graph, edits, data):
    group = (edits[len(graph.layers)],)
    (graft,) = made(graph, [group], data)
    (found,) = sensitivity(graph, [group], data, FAST, seed=0, progress=QUIET)
    student = commit(graph, group, 0)
    put_in(student, graft.weights)
    (forward,) = data.source(graph.model, stage="distil", batch_size=8, seed=0).held_out()
    with torch.no_grad():
        wanted, given = (predict(model, forward.inputs) for model in (graph.model, student))
        loss, before = float(forward.loss(given)), float(forward.loss(wanted))
    assert found.output == pytest.approx(float((given - wanted).norm() / wanted.norm()), rel=1e-5)
    assert (found.loss, found.rise) == pytest.approx((loss, loss - before), rel=1e-5)
    assert found.site > 0


def test_an_edit_that_keeps_the_function_has_no_effect(graph, data):
    group = tuple(candidates(graph, [replace_attention(FullAttention(), inherit="exact", layers=indices(0))]))
    config = FAST.model_copy(update={"lr": 1e-12})
    (found,) = sensitivity(graph, [group], data, config, seed=0, progress=QUIET)
    assert (found.site, found.output, found.rise) == pytest.approx((0, 0, 0), abs=1e-5)


def test_an_edit_without_weights_has_an_effect_on_the_output_alone(graph, data):
    group = tuple(candidates(graph, [drop_blocks(layers=indices(0))]))
    (found,) = sensitivity(graph, [group], data, FAST, seed=0, progress=QUIET)
    assert found.site == 0
    assert found.output > 0


def test_effects_are_kept_in_the_library(graph, edits, data, tmp_path, monkeypatch):
    library, groups = GraftLibrary(tmp_path), [(edits[0],), (edits[-1],)]
    first = sensitivity(graph, groups, data, FAST, seed=0, progress=QUIET, library=library)
    monkeypatch.setattr("surgery.sensitivity.effects._measured", None)
    assert sensitivity(graph, groups, data, FAST, seed=0, progress=QUIET, library=library) == first
    assert all(isinstance(effect, Effect) for effect in first)


def test_grafts_serve_students_with_more_edits(graph, edits, data):
    layers = len(graph.layers)
    chosen = [edits[0], edits[layers + 1], edits[2 * layers]]
    student = commit(graph, chosen, 0, shared=True)
    groups = groups_of(graph, chosen, student)
    assert groups == [(edit,) for edit in chosen]
    before = [p.clone() for p in graph.model.parameters()]
    learnt = made(graph, groups, data)
    for graft in learnt:
        put_in(student, graft.weights)
    for graft in learnt:
        assert same(graft.weights, {name: student.get_parameter(name) for name in graft.weights})
    assert all(torch.equal(a, b) for a, b in zip(before, graph.model.parameters(), strict=True))


def test_edits_whose_operators_have_weights_in_common_are_one_group(graph, edits, monkeypatch):
    first, second, third = edits[0], edits[1], edits[-1]
    names = {first.path: {"a", "b"}, second.path: {"c"}, third.path: {"b", "d"}}
    monkeypatch.setattr(grafting, "_learning", lambda graph, student, group: names[group[0].path])
    assert groups_of(graph, [first, second, third], nn.Module()) == [(first, third), (second,)]


def test_a_run_with_a_library_distils_once(tiny_dit, tmp_path, monkeypatch):
    recipe = Recipe(
        model=str(tiny_dit),
        rules=[replace_attention(HyenaX(kernel=4), layers=every(2))],
        distil=Distil(steps=2, batch_size=8, library=tmp_path / "grafts"),
        finetune=Finetune(steps=1, batch_size=8),
        evaluate=None,
    )
    first = surgery.apply(recipe, tmp_path / "one")
    monkeypatch.setattr(grafting, "distil", None)
    second = surgery.apply(recipe, tmp_path / "two")
    assert len(GraftLibrary(tmp_path / "grafts")) == 2  # the layers 1 and 3
    losses = [(run.folder / "losses.json").read_text() for run in (first, second)]
    assert losses[0] == losses[1]
    assert same(dict(first.student.state_dict()), dict(second.student.state_dict()))
