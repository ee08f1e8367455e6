"""`surgery analyze`: what it runs a model on, and what it prints and writes."""

from __future__ import annotations

import json
from statistics import fmean

import pytest
import torch
from diffusers import DiTTransformer2DModel

import surgery
from surgery.cli import main
from surgery.errors import RecipeError
from surgery.operators import HyenaX
from surgery.pipelines.load import load_pipeline
from surgery.recipe import Distil, Finetune, Recipe
from surgery.rewriting import indices
from surgery.rules import replace_attention
from surgery.run.subject_to_analyze import Sampling, analyzed
from surgery.statistics.show import analysis_page
from surgery.store.order import seeded
from tests.compat import pipelines
from tests.run.twins import built, saved
from tests.statistics import direct


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["analyze", *arguments]) == 0
    return capsys.readouterr().out


def test_json_has_the_figures_of_each_layer_in_order(capsys):
    found = json.loads(run(capsys, "digits-dit", "--steps", "2", "--json"))
    assert [layer["layer"] for layer in found["layers"]] == list(range(8))
    assert all(isinstance(layer[name], float) for layer in found["layers"] for name in ("locality", "entropy"))
    assert [layer["path"] for layer in found["layers"]] == [f"transformer_blocks.{n}" for n in range(8)]
    assert found["driven_by"].startswith("DigitsPipeline")
    assert found["forwards"] == 2


def test_a_bare_transformer_runs_on_made_up_inputs(capsys, tiny_dit, tmp_path):
    table = run(capsys, str(tiny_dit), "--steps", "2", "--out", str(tmp_path))
    assert "made-up inputs, 2 times" in table
    written = json.loads((tmp_path / "analysis.json").read_text())
    assert written["forwards"] == 2
    page = (tmp_path / "analysis.html").read_text()
    assert page.count("<svg") == page.count("</svg>") > 4


def test_what_has_no_figures_is_said():
    seen = {"path": "a", "role": "self_attention", "entropy": 1.0}
    whole = {"path": "b", "locality": 0.5, "locality_2d": 0.5, "entropy": 1.0, "contribution": 0.1, "operators": [seen]}
    unseen = {**whole, "locality": None, "operators": [{"path": "a", "role": "self_attention"}]}
    gridless, unstreamed = {**whole, "locality_2d": None}, {**whole, "contribution": None}

    def page(*layers):
        numbered = [{**layer, "layer": n} for n, layer in enumerate(layers)]
        return analysis_page({"model": "m", "driven_by": "d", "layers": numbered})

    words = ("attention without figures", "no locality on a grid", "no contribution and similarity")
    assert not any(each in page(whole) for each in words)
    found = page(gridless, unseen, unstreamed, gridless)
    assert all(f"{n}: {each}" in found for n, each in zip(("Layer 1", "Layers 0, 3", "Layer 2"), words, strict=True))
    assert "No layers were found" in page()


def test_keywords_are_for_pipelines_only(tiny_dit, tmp_path):
    with pytest.raises(RecipeError, match="is no pipeline, so nothing takes keywords"):
        analyzed(str(tiny_dit), Sampling(), tmp_path / "call.json")


def test_the_same_seed_gives_the_same_figures(capsys):
    first, second = (run(capsys, "digits-dit", "--steps", "1", "--json") for _ in range(2))
    assert first == second


def test_a_pipeline_saved_in_half_precision_runs(tmp_path):
    load_pipeline(saved(tmp_path / "single", "PixArtSigmaPipeline")).to(torch.bfloat16).save_pretrained(
        tmp_path / "half"
    )
    pipe, (_, call) = load_pipeline(tmp_path / "half"), built("PixArtSigmaPipeline")
    assert pipe.text_encoder.dtype == pipe.transformer.dtype == torch.float32
    assert len(pipe(**call, num_inference_steps=1).images) == 1


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A pipeline of a tiny model, and the folder it was saved to."""
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=4,
        norm_num_groups=1,
    ).eval()
    made = pipelines.pipeline("dit", model)
    folder = tmp_path_factory.mktemp("pipeline")
    made.save_pretrained(folder)
    return made, folder


def test_a_pipeline_is_run_as_it_is(capsys, pipeline):
    pipe, folder = pipeline
    found = json.loads(run(capsys, str(folder), "--steps", "3", "--samples", "2", "--json"))
    assert (found["forwards"], found["outside"]) == (6, [])
    calls = [seeded(0, "sample", number) for number in range(2)]
    with torch.no_grad(), direct.attention_seen() as seen:
        for generator in calls:
            pipe(class_labels=[0], num_inference_steps=3, generator=generator, output_type="np")
    seen = [call for call in seen if call["query"].shape[1] == 2]  # the decoder has attention too
    for layer in found["layers"]:
        figures = [direct.figures_of_call(call) for call in seen[layer["layer"] :: 2]]
        for name in ("locality", "entropy", "sink", "key_mean"):
            assert layer[name] == pytest.approx(fmean(each[name] for each in figures), abs=1e-6)


def test_the_call_is_that_of_a_file(capsys, pipeline, tmp_path):
    (tmp_path / "call.json").write_text(json.dumps({"class_labels": [3, 4], "guidance_scale": 1.0}))
    found = json.loads(run(capsys, str(pipeline[1]), "--call", str(tmp_path / "call.json"), "--steps", "1", "--json"))
    assert '"class_labels": [3, 4]' in found["driven_by"]


def test_the_student_of_a_run_is_analyzed_in_the_pipeline_of_its_recipe(capsys, tiny_dit, tmp_path):
    recipe = Recipe(
        model=str(tiny_dit),
        rules=[replace_attention(HyenaX(kernel=4), layers=indices(1))],
        distil=Distil(steps=1, batch_size=4),
        finetune=Finetune(steps=1, batch_size=4),
        evaluate=None,
    )
    surgery.apply(recipe, tmp_path / "run")
    layers = json.loads(run(capsys, str(tmp_path / "run"), "--steps", "1", "--json"))["layers"]
    assert [layer["locality"] is None for layer in layers] == [False, True, False, False]
    assert [operator["role"] for operator in layers[1]["operators"]] == ["sequence_mixer", "mlp"]
    assert all(operator["contribution"] > 0 for layer in layers for operator in layer["operators"])
