"""From prompts, or labels, to a student that runs in its pipeline."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import surgery
from surgery.data import Generated, read_prompts
from surgery.errors import RecipeError
from surgery.evaluate.settings import Evaluate
from surgery.pipelines.calls import calls_of
from surgery.pipelines.load import load_pipeline
from surgery.pipelines.sources import condition_of
from surgery.pipelines.times import Sigma
from surgery.recipe import Finetune, Recipe
from surgery.run.checks import check_run
from surgery.run.prepare import plan_recipe, prepare
from tests.run.twins import TRAINED, built, call_of, recipe, saved
from tests.training.tiny import InterruptError, Interrupting, same_bits


def asking(folder: Path, name: str, prompts: tuple[str | int, ...], **more: Any) -> Recipe:
    data = Generated(prompts=prompts, samples=24, steps=2, call=call_of(name))
    return recipe(saved(folder, name), data, **more)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return surgery.load(run / "model").state_dict()


def test_from_prompts_to_a_student_in_its_pipeline_also_if_interrupted(tmp_path):
    asked = asking(
        tmp_path / "pipeline",
        "PixArtSigmaPipeline",
        ("a cat", "two birds"),
        evaluate=Evaluate(samples=2, steps=2),
        finetune=TRAINED["finetune"].model_copy(update={"sample_every": 3}),
    )
    run = surgery.apply(asked, tmp_path / "run")
    stages = {stage.stage: stage.values for stage in run.metrics.stages}
    assert stages["finetuned"]["held_out_loss"] < stages["distilled"]["held_out_loss"]
    assert stages["teacher"]["teacher_distance"] == 0 < stages["rewritten"]["teacher_distance"]
    grids = {path.stem for path in (tmp_path / "run" / "samples").iterdir()}
    assert grids == {*stages, "finetune-000000", "finetune-000003", "finetune-000006"}
    for after in (10, 33):  # while samples are made, and while the student is trained
        with pytest.raises(InterruptError):
            surgery.apply(asked, tmp_path / "again", resume=after != 10, progress=Interrupting(after))
    surgery.apply(asked, tmp_path / "again", resume=True)
    assert same_bits(weights(tmp_path / "run"), weights(tmp_path / "again"))
    pipeline, (_, call) = load_pipeline(tmp_path / "pipeline"), built("PixArtSigmaPipeline")
    pipeline.transformer = surgery.load(tmp_path / "run" / "model")
    assert len(pipeline(**call, num_inference_steps=2).images) == 1


def test_labels_are_taken_where_the_pipeline_takes_classes(tmp_path):
    asked = asking(tmp_path / "pipeline", "DiTPipeline", (3, "7"), evaluate=None)
    prepared = prepare(asked)
    conditional, samples = prepared.data.wiring.conditional, prepared.data.feed.samples
    labels = [int(condition_of(samples[number], conditional).arguments["class_labels"]) for number in range(3)]
    assert labels == [3, 7, 3]
    assert plan_recipe(asked) == prepared.plan
    weighed = asked.model_copy(update={"finetune": Finetune(weights=Sigma())})
    with pytest.raises(RecipeError, match=r"finetune\.weights: Sigma is made for flows"):
        check_run(replace(prepared, recipe=weighed))


def test_half_precision_from_end_to_end(tmp_path):
    asked = asking(tmp_path / "pipeline", "DiTPipeline", (3,), evaluate=None, dtype="bfloat16")
    run = surgery.apply(asked, tmp_path / "run")
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.bfloat16}
    store = load_file(max(tmp_path.glob("run/checkpoints/finetune-*.safetensors")))
    trained = {name: tensor for name, tensor in store.items() if name.startswith("parameters/")}
    for name, tensor in trained.items():
        master = store[f"{name.replace('parameters/', 'optimizer/')}/master"]
        assert (tensor.dtype, master.dtype) == (torch.bfloat16, torch.float32)
        assert torch.equal(tensor, master.bfloat16())
    losses = json.loads((tmp_path / "run" / "losses.json").read_text())
    held_out = [step["validation"] for step in losses if step["stage"] == "finetune" and step["validation"]]
    assert held_out[-1] < held_out[0]
    assert next(run.student.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("prompts", "call", "words"),
    [
        ((), {}, "there is no prompt"),
        (("cat",), {}, "'cat' is no whole number, and class_labels takes these"),
        ((3, 5000), {}, "DiTPipeline does not take class_labels=5000: index out of range"),
        ((1,), {"hight": 8}, "DiTPipeline has no keyword 'hight'"),
        (Path("nowhere.txt"), {}, "nowhere.txt cannot be read"),
    ],
)
def test_mistakes_are_named(prompts, call, words):
    with pytest.raises(RecipeError, match=words):
        calls_of(built("DiTPipeline")[0], call, read_prompts(Generated(prompts=prompts, samples=1, steps=1)), 1)


lines = st.text(string.printable.strip(), min_size=1)
values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=3)


@given(st.lists(lines, min_size=1), st.integers(1, 99), st.dictionaries(st.text(min_size=1), values))
def test_it_is_read_back_and_a_file_holds_a_prompt_a_line(tmp_path_factory, prompts, samples, call):
    data = Generated(prompts=prompts, samples=samples, steps=3, call=call)
    asked = Recipe(model="x", rules=(), data=data)
    assert Recipe.model_validate(json.loads(json.dumps(asked.model_dump(mode="json")))) == asked
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("\n\n".join(prompts))
    named = Generated(prompts=file, samples=samples, steps=3)
    assert Generated.from_data(json.loads(named.model_dump_json())) == named
    assert surgery.data.read_prompts(named) == tuple(prompts)
