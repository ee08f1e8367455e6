"""Tiny pipelines of diffusers: wired in float32 and bfloat16, saved, shown, recorded; errors name what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import surgery
from surgery.cli import main
from surgery.errors import WiringError
from surgery.pipelines import Condition, Wiring, measure
from surgery.pipelines.collate import collate
from surgery.pipelines.drive import Listener, drive
from surgery.pipelines.process import process_of
from surgery.pipelines.record import record, sample
from surgery.pipelines.times import Uniform
from tests.pipelines.build import Tiny
from tests.pipelines.rows import outputs_of
from tests.pipelines.synthetic import Synthetic
from tests.pipelines.tiny import PIPELINES
from tests.pipelines.traits import Traits


def tiny(name: str) -> Tiny:
    return next(tiny for tiny in PIPELINES if tiny.pipeline == name)


@pytest.mark.parametrize("name", ["DiTPipeline", "FluxPipeline", "LTXPipeline"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pipeline_is_wired(name: str, dtype: torch.dtype) -> None:
    pipeline = tiny(name).build().to(dtype)
    wiring = surgery.measure(pipeline, tiny(name).call)
    assert len(wiring.schedule) >= 999
    assert len(wiring.branches) == (1 if name == "FluxPipeline" else 2)
    assert not wiring.batching.odd


def test_a_student_takes_a_step_on_fresh_samples() -> None:
    pipeline, call = tiny("DiTPipeline").build(), tiny("DiTPipeline").call
    wiring, generator = measure(pipeline, call), torch.Generator().manual_seed(0)
    process = process_of(wiring.schedule)
    drawn = [sample(pipeline, call | {"class_labels": [n], "num_inference_steps": 2}, wiring) for n in (1, 2, 3)]
    latents = torch.stack([one.latents for one in drawn]).float()
    conditions = [Condition(wiring.conditional, one.conditions[wiring.conditional]) for one in drawn]
    noise = torch.randn(latents.shape, generator=generator)
    positions = Uniform().draw(len(latents), len(wiring.schedule), generator)
    batches = collate(wiring, process.noised(latents, noise, positions), positions, conditions)
    student = pipeline.transformer.train()
    losses = []
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-2)
    for _ in range(3):
        output = outputs_of(wiring, batches, [student(**batch.arguments) for batch in batches])
        loss = torch.nn.functional.mse_loss(output, process.target(latents, noise, positions))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert len(batches) == 1
    assert losses[-1] < losses[0]


def test_conditions_of_another_size_are_refused() -> None:
    wiring = measure(Synthetic(Traits()), {"prompt": "a cat"})
    with pytest.raises(WiringError, match=r"the wiring is of \(2, 2, 2\)"):
        wiring.arguments_of(torch.zeros(2, 3, 2), 0, wiring.conditions[0])


def test_a_trajectory_is_that_of_the_pipeline() -> None:
    pipeline = Synthetic(Traits(guidance="calls", bad="square"))
    call = {"prompt": "a cat", "num_inference_steps": 5, "generator": torch.Generator().manual_seed(3)}
    run = record(pipeline, call)
    assert len(run.steps) == 5
    assert all(len(step.calls) == 2 for step in run.steps[1:])
    assert torch.equal(run.latents, pipeline(**call, output_type="latent"))


def test_a_pipeline_is_put_back_after_an_error() -> None:
    class Failing(Listener):
        def forward(self, model: str, forward: object, arguments: object) -> object:
            raise RuntimeError("out of memory")

    pipeline = tiny("DiTPipeline").build()
    owners = [pipeline, pipeline.scheduler, pipeline.transformer, pipeline.vae]
    before = [dict(vars(owner)) for owner in owners]
    with pytest.raises(RuntimeError, match="out of memory"):
        drive(pipeline, tiny("DiTPipeline").call, Failing())
    assert [dict(vars(owner)) for owner in owners] == before


def test_a_call_that_fails_is_one_line() -> None:
    with pytest.raises(WiringError, match=r"Synthetic does not run: .*nonsense"):
        measure(Synthetic(Traits()), {"prompt": "a cat", "nonsense": 1})


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_wiring_is_refused(tmp_path: Path, damage: str) -> None:
    measure(Synthetic(Traits()), {"prompt": "a cat"}).save(tmp_path)
    tensors = tmp_path / "wiring.safetensors"
    if damage == "missing":
        tensors.unlink()
    elif damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    else:
        whole = json.loads((tmp_path / "wiring.json").read_text())
        (tmp_path / "wiring.json").write_text(json.dumps({**whole, "format": "else"}))
    with pytest.raises(WiringError, match="measure"):
        Wiring.load(tmp_path)


def test_large_latents_are_wired_too() -> None:
    pipeline = Synthetic(Traits(size=(16, 96, 96), layout="tokens", guidance="rows", time="per token"))
    wiring = measure(pipeline, {"prompt": "a cat"})
    z = torch.randn(wiring.shape)
    hidden = wiring.arguments_of(z, 5, wiring.conditions[0])["hidden_states"]
    assert torch.equal(hidden[0], z.flatten(1).T)
    assert wiring.branches[0].times["timestep"].values.shape[1] == 2  # of 9,216 tokens, two differ


def test_wiring_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny("DiTPipeline").build().save_pretrained(tmp_path)
    assert main(["inspect", str(tmp_path), "--wiring"]) == 0
    shown = capsys.readouterr().out
    assert "variance preserving, predicts epsilon" in shown
    assert all(name in shown for name in ("hidden_states", "class_labels", "transformer unconditional"))


@pytest.mark.parametrize("model", ["digits-dit", "fashion-dit"])
def test_wirings_of_built_in_models_are_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", model, "--wiring", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["process"] == "variance preserving, predicts epsilon"
    assert {row["argument"]: row["is"] for row in shown["arguments"]}["hidden_states"] == "latents"


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path), "--wiring"]) == 1
    assert "model_index.json" in capsys.readouterr().err
