"""Students of several families, edited in several ways, learn on two processes what they learn on one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import surgery
from surgery.operators import GatedMLP, HyenaX, SlidingWindow
from surgery.parallel.group import size
from surgery.parallel.whole import is_divided, own_part
from surgery.progress import SilentProgress
from surgery.recipe import Recipe
from surgery.recording.copying import place
from surgery.rewriting import every, indices
from surgery.rewriting.commit import commit
from surgery.rewriting.planning import prove
from surgery.rewriting.rule import Rule
from surgery.rules import drop_blocks, parallel_pairs, replace_attention, replace_mlp, share_blocks
from surgery.run.prepare import prepare
from surgery.sensitivity import from_library
from surgery.testing import profiles
from surgery.tracing import trace
from surgery.training.distil import Distil, distil, sites_of
from surgery.training.finetune import Finetune, finetune
from surgery.training.lora import LoRA
from surgery.training.sharding import divide, never_trained, units_of
from surgery.training.source import predict
from tests.parallel.world import in_processes
from tests.run.test_killed import files
from tests.training.test_options import new_of
from tests.training.test_wired import wired

GATED = replace_mlp(GatedMLP(ratio=2), layers=indices(0), inherit="random")
CORE = replace_attention(SlidingWindow(window=2), layers=indices(0))
ADAPTED: dict[str, Any] = {"lora": LoRA(rank=2), "lr": 1e-2}
CASES: dict[str, tuple[str, Sequence[Rule]]] = {
    "swapped": ("DiTPipeline", [replace_attention(HyenaX(kernel=4), layers=indices(1))]),
    "core": ("PixArtSigmaPipeline", [CORE]),
    "pairs": ("PixArtSigmaPipeline", [parallel_pairs()]),
    "core of two streams": ("FluxPipeline", [CORE]),
    "shared": ("DiTPipeline", [share_blocks(layers=indices(0, 1)), GATED]),
    "dropped": ("WanPipeline", [drop_blocks(layers=indices(1)), GATED]),
}

LONG = ("swapped", "core", "core of two streams", "shared")


def learnt(name: str, rules: Sequence[Rule], divided: bool = False, **options: Any) -> tuple[list[float], Tensor]:
    """The losses of both stages, and what the student predicts at last."""
    model, data = wired(name)
    teacher, inputs = copy.deepcopy(model), data.example(0, "cpu")
    graph = trace(teacher, inputs)
    planned, recordings = prove(graph, rules)
    student = commit(graph, planned.edits, 0, recordings, shared=True)
    if divided:
        frozen = never_trained(student, teacher, planned.edits, Finetune(**options))
        divide(graph, planned.edits, student, inputs, frozen=frozen)
        assert all(map(is_divided, student.parameters()))
    common: dict[str, Any] = {"steps": 2, "batch_size": 3, "warmup": 0, "checkpoint_every": 2}
    sites = sites_of(planned.edits, teacher, student)
    one = distil(teacher, student, sites, data, Distil(**common), seed=1)
    two = finetune(teacher, student, new_of(student), data, Finetune(**common, target="teacher", **options), seed=1)
    with torch.no_grad():
        given = predict(student, inputs)
    return [figure for r in (*one, *two) for figure in (r.loss, r.validation or 0.0)], given


@pytest.mark.parametrize("case", CASES)
def test_losses_and_predictions_are_those_of_one_process(case: str) -> None:
    if case in LONG and profiles.chosen() != "nightly":
        pytest.skip("takes long: make nightly")
    require_equal(case)


@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES)
def test_those_of_adapters_are_too(case: str) -> None:
    require_equal(case, **ADAPTED)


def require_equal(case: str, **options: Any) -> None:
    losses, given = learnt(*CASES[case], **options)
    both = in_processes(2, lambda: [learnt(*CASES[case], **options), learnt(*CASES[case], divided=True, **options)])
    for found, predicted in both[0]:
        assert found == pytest.approx(losses, rel=1e-5)
        torch.testing.assert_close(predicted, given, atol=1e-4, rtol=1e-4)


def test_a_divided_student_and_a_whole_one_share_a_library(tmp_path: Path) -> None:
    def work(folder: str, divided: bool = False) -> list[list[float]]:
        teacher, data = wired("DiTPipeline")
        graph = trace(teacher, data.example(0, "cpu"))
        planned, _ = prove(graph, [replace_mlp(GatedMLP(ratio=2), inherit="random")])
        student = commit(graph, planned.edits, 0, shared=True)
        if divided:
            divide(graph, planned.edits, student, data.example(0, "cpu"))
        config = Distil(steps=2, batch_size=3, library=tmp_path / folder)
        losses = from_library(graph, student, planned.edits, data, config, seed=1, progress=SilentProgress())
        with torch.no_grad():
            return [[*record.sites.values()] for record in losses] + predict(student, data.example(0, "cpu")).tolist()

    expected = work("one")
    made = in_processes(2, lambda: work("two", divided=True))[0]
    taken = in_processes(2, lambda: work("one", divided=True))[0]
    assert torch.tensor(made[:2]).allclose(torch.tensor(expected[:2]), rtol=1e-5)
    assert taken[:2] == expected[:2]
    for found in (made, taken):
        torch.testing.assert_close(torch.tensor(found[2:]), torch.tensor(expected[2:]), atol=1e-4, rtol=1e-4)
    assert {path.suffix for path in files(tmp_path / "one")} == {".json", ".safetensors"}
    assert files(tmp_path / "one").keys() == files(tmp_path / "two").keys()


def test_a_divided_student_is_saved_as_a_whole_one_and_holds_frozen_weights_once(
    tmp_path: Path, tiny_dit: Path
) -> None:
    rules = [replace_attention(HyenaX(kernel=4), layers=every(2))]
    config = Finetune(inherited_lr=0, rates={"*.ff.*": 1})

    def work() -> set[str]:
        recipe = Recipe(model=str(tiny_dit), rules=rules, finetune=config, evaluate=None)
        prepared = prepare(recipe, divided=True)
        edits, graph, teacher = prepared.plan.edits, prepared.graph, prepared.teacher.model
        saved = student = commit(graph, edits, 0, prepared.recordings, shared=True)
        frozen = never_trained(student, teacher, edits, config)
        if size() > 1:
            saved = divide(graph, edits, student, prepared.data.example(0, "cpu"), "cpu", frozen)
            saved.load_state_dict(student.state_dict(), assign=True)
        surgery.save(saved, tmp_path / str(size()))
        taken = {place(own_part(p)) for p in teacher.parameters() if own_part(p).numel()}
        return {name for name, p in student.named_parameters() if place(own_part(p)) in taken}

    work()
    once = in_processes(2, work)
    assert files(tmp_path / "2") == files(tmp_path / "1")
    for names in once:
        assert sum(".attn1.to_q." in name for name in names) == 4  # of both layers that keep their attention
        assert not any(".ff." in name for name in names)


def test_what_is_used_outside_of_its_block_is_gathered_by_itself() -> None:
    model, data = wired("DiTPipeline")
    graph = trace(model, data.example(0, "cpu"))
    first = "transformer_blocks.0"
    assert units_of(graph.scopes, graph.layers) == {*graph.layers, f"{first}.norm1.emb"}  # which the root calls as well
    assert units_of(graph.scopes, {first}) == {first, f"{first}.norm1.emb"}
