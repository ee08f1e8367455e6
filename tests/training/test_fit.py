"""Fitted starts: never worse than inherited projections, and the least squares of a plain definition."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

import surgery
from surgery.evaluate.settings import Evaluate
from surgery.operators import (
    MLP,
    TTT,
    Blend,
    FullAttention,
    GatedDelta,
    GroupedQueryAttention,
    HyenaSE,
    HyenaX,
    HyenaXMLP,
    LinearAttention,
    Mamba2,
    OperatorConfig,
    SlidingWindow,
    SparseLinear,
)
from surgery.recipe import Distil, Finetune, Recipe
from surgery.rewriting.commit import commit
from surgery.rewriting.planning import prove
from surgery.rules import mlp_ratio, replace_attention, replace_mlp
from surgery.tracing import trace
from surgery.training.distil import sites_of
from surgery.training.fit import Fitted, fit, may_be_fitted
from surgery.training.wired import WiredData
from tests.pipelines.test_pipelines import tiny as tiny_pipeline
from tests.pipelines.training import wired_data
from tests.training import tiny

FULL_OR_LINEAR = Blend(parts=(FullAttention(), LinearAttention()))
OPERATORS: list[OperatorConfig] = [
    SlidingWindow(window=1), GroupedQueryAttention(groups=1), LinearAttention(features="learned"), HyenaX(), HyenaSE(),
    Mamba2(head_dim=8), GatedDelta(), TTT(), SparseLinear(block=1, top=1), FULL_OR_LINEAR, MLP(ratio=2), HyenaXMLP(),
]  # fmt: skip


def fitted(teacher: nn.Module, rule: Any, data: WiredData) -> tuple[nn.Module, dict[str, Fitted]]:
    """The student of a rule, and its losses."""
    graph = trace(teacher, data.example(0, "cpu"))
    plan, recordings = prove(graph, [rule])
    student = commit(graph, plan.edits, 0, recordings, shared=True)
    return student, fit(teacher, student, sites_of(plan.edits, teacher, student), data, batch_size=8, seed=0)


def replace(operator: OperatorConfig, inherit: Any = "fitted") -> Any:
    return (replace_mlp if operator.kind in ("mlp", "hyena_x_mlp") else replace_attention)(operator, inherit=inherit)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)
def test_no_site_starts_worse(operator: OperatorConfig) -> None:
    teacher = tiny.teacher()
    before = tiny.weights(teacher)
    _, losses = fitted(teacher, replace(operator), tiny.data())
    assert len(losses) == 2
    assert all(each.after <= each.before for each in losses.values())
    if operator.kind != "sliding_window":  # of four tokens
        assert any(each.after < each.before for each in losses.values())
    assert tiny.same_bits(tiny.weights(teacher), before)


def test_a_resized_mlp_is_fitted() -> None:
    _, losses = fitted(tiny.teacher(), mlp_ratio(2, inherit="fitted"), tiny.data())
    assert all(each.after < each.before for each in losses.values())


def test_cores_are_fitted_with_what_is_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.pipelines.training.SAMPLES", 12)
    pipeline, call = tiny_pipeline("FluxPipeline").build(), tiny_pipeline("FluxPipeline").call
    data = wired_data(pipeline, surgery.measure(pipeline, call), call)
    before = tiny.weights(pipeline.transformer)
    student, losses = fitted(pipeline.transformer, replace(HyenaX(kernel=3)), data)
    assert all(each.after <= each.before for each in losses.values())
    assert any(each.after < 0.9 * each.before for each in losses.values())
    assert tiny.same_bits(tiny.weights(pipeline.transformer), before)
    changed = {n for n, w in pipeline.transformer.state_dict().items() if not torch.equal(student.state_dict()[n], w)}
    assert {"to_out.0", "to_add_out"} <= {name.split("attn.")[1].rsplit(".", 1)[0] for name in changed}
    graph = trace(pipeline.transformer, data.example(0, "cpu"))
    sites = sites_of(prove(graph, [replace(HyenaX(kernel=3))])[0].edits, pipeline.transformer, student)
    assert changed <= may_be_fitted(student, sites)


def test_the_last_map_is_that_of_least_squares() -> None:
    """Against the activations of all batches side by side; the mixer has a bias."""
    teacher, student = tiny.teacher().eval(), tiny.student(tiny.SITE).eval()
    mixer = student.get_submodule(tiny.SITE)
    (site,) = tiny.sites(teacher, student, {tiny.SITE: "l2"})
    fit(teacher, student, [dataclasses.replace(site, fitted=True)], tiny.data(), batch_size=8, seed=0)
    batches = tiny.data().source(teacher, stage="distil", batch_size=8, seed=0)
    inputs, wanted = [], []
    mixer.out.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, 1).double()))

    def see(_: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
        wanted.append(out.flatten(0, 1).double())
        mixer(*args, **kwargs)

    teacher.get_submodule(tiny.SITE).register_forward_hook(see, with_kwargs=True)
    with torch.no_grad():
        for step in range(4):
            teacher(**batches.training(step)[0].inputs)
    rows = torch.cat([torch.cat(inputs), torch.ones(len(torch.cat(inputs)), 1)], 1)
    best = torch.linalg.lstsq(rows, torch.cat(wanted)).solution
    found = torch.cat([mixer.out.weight.T, mixer.out.bias[None]]).double()
    error = [(rows @ each - torch.cat(wanted)).square().mean() for each in (found, best)]
    torch.testing.assert_close(*error, rtol=1e-3, atol=0)


def test_gates_find_the_part_that_is_right() -> None:
    student, losses = fitted(tiny.teacher(), replace(FULL_OR_LINEAR), tiny.data())
    assert all(each.after < 1e-3 * each.before for each in losses.values())
    gates = student.get_submodule(tiny.SITE).core.gates
    torch.testing.assert_close(gates, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), rtol=0, atol=1e-2)


def test_what_is_fitted_comes_out_of_a_run_of_no_steps(tiny_dit: Any, tmp_path: Any) -> None:
    """Both stages left out: their figures are those of the fitted student; a resumed run is the same."""

    recipe = Recipe(
        model=str(tiny_dit), rules=(replace_attention(HyenaX(), inherit="fitted"),),
        distil=Distil(steps=0, batch_size=8), finetune=Finetune(steps=0), evaluate=Evaluate(samples=50, steps=1),
    )  # fmt: skip
    run = surgery.apply(recipe, tmp_path / "run")
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert [each.pop("stage") for each in stages] == ["teacher", "rewritten", "distilled", "finetuned"]
    assert [each.pop("seconds") for each in stages[2:]] == [0.0, 0.0]
    assert stages[1].pop("seconds") > 0
    assert stages[1] == stages[2] == stages[3]
    assert json.loads((tmp_path / "run" / "losses.json").read_text()) == []
    assert (tmp_path / "run" / "samples" / "finetuned.png").exists()
    attention = DiTTransformer2DModel.from_pretrained(tiny_dit).transformer_blocks[0].attn1
    assert not torch.equal(run.student.transformer_blocks[0].attn1.out_proj.weight, attention.to_out[0].weight)
    assert torch.equal(run.student.transformer_blocks[0].attn1.in_proj.weight[:16], attention.to_q.weight)
    again = surgery.apply(recipe, tmp_path / "run", resume=True)
    assert tiny.same_bits(tiny.weights(again.student), tiny.weights(run.student))
