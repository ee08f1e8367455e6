"""What a user gets wrong around a run is one line, and what can be known beforehand leaves nothing behind."""

from __future__ import annotations

import json
import shutil

import pytest
from diffusers import DiTTransformer2DModel

import surgery
from surgery.cli import main
from surgery.errors import ConfigError, RecipeError
from surgery.models import load_pretrained
from surgery.rewriting import every, indices
from surgery.run.folder import RunFolder
from surgery.run.lock import locked
from tests.cli.test_cli import only_line, run

CONFLICT = "[replace_attention(HyenaX()), replace_attention(SlidingWindow())]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--device", "foo"], "the device 'foo' cannot be used"),
        (["--device", "meta"], "the device 'meta' holds no values"),
        (["--set", "evaluate.samples=20"], "evaluate: metric 'frechet': 20 samples are too few"),
        (["--set", f"distil.steps={10**30}"], "distil.steps: 1000000000000000000000000000000 is too large"),
        (
            ["--set", "data=some.safetensors"],
            "unknown data 'some.safetensors'; use 'digits', 'fashion-mnist', or Latents('some.s",
        ),
    ],
)
def test_what_can_be_known_is_said_before_anything_is_written(capsys, tmp_path, write_recipe, arguments, words):
    status, _, err = run(capsys, "apply", write_recipe(), "--out", tmp_path / "run", *arguments)
    assert status == 2
    assert words in only_line(err)
    assert not (tmp_path / "run").exists()


def test_a_model_that_does_not_know_all_digits_is_refused_at_once(capsys, tmp_path, write_recipe, tiny_dit):
    config = {**DiTTransformer2DModel.load_config(tiny_dit), "num_embeds_ada_norm": 5}
    DiTTransformer2DModel.from_config(config).save_pretrained(tmp_path / "few")
    shutil.copy(tiny_dit / "scheduler_config.json", tmp_path / "few")
    status, _, err = run(
        capsys, "apply", write_recipe(), "--set", f"model={tmp_path / 'few'}", "--out", tmp_path / "run"
    )
    assert status == 2
    assert "does not run with class_labels=9: index out of range" in only_line(err)
    assert not (tmp_path / "run").exists()


def test_a_pipeline_on_the_hub_that_cannot_be_fetched_is_one_line(capsys, tmp_path, write_recipe):
    data = 'data={"kind": "generated", "prompts": ["a"], "samples": 20, "steps": 2}'
    status, _, err = run(
        capsys, "apply", write_recipe(), "--set", "model=no/such", "--set", data, "--out", tmp_path / "run"
    )
    assert status == 1
    assert "model 'no/such' is no folder here, and no pipeline of this name can be fetched" in only_line(err)


def test_a_recipe_that_freezes_all_there_is_to_train_is_refused_at_once(capsys, tmp_path, write_recipe):
    recipe = write_recipe(rules="[drop_blocks(layers=indices(1))]", finetune="steps=6, inherited_lr=0")
    status, _, err = run(capsys, "apply", recipe, "--out", tmp_path / "run")
    assert status == 2
    assert "finetune: all weights are frozen" in only_line(err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("finetune", "words"),
    [
        ("steps=1, target={'data': 0, 'teacher': 0}", "finetune.target: no block of the student can be compared"),
        ("steps=1, ema_device='gpu'", "finetune.ema_device: the device 'gpu' cannot be used"),
        ("steps=1, ema_device='meta'", "finetune.ema_device: the device 'meta' holds no values"),
        ("steps=1, ema_device='cuda:99'", "finetune.ema_device: the device 'cuda:99' cannot be used"),
        ("steps=1, lora={'targets': ()}", "Finetune.lora.targets: must name layers, e.g. '*.attn1.*'"),
    ],
)
def test_what_cannot_be_finetuned_is_refused_at_once(capsys, tmp_path, write_recipe, finetune, words):
    recipe = write_recipe(rules="[parallel_pairs()]", finetune=finetune)
    recipe.write_text("from surgery.rules import parallel_pairs\n" + recipe.read_text())
    status, _, err = run(capsys, "apply", recipe, "--out", tmp_path / "run")
    assert status == 2
    assert words in only_line(err)
    assert not (tmp_path / "run").exists()


def test_a_plan_with_conflicts_shows_them_and_fails(capsys, write_recipe):
    status, out, err = run(capsys, "plan", write_recipe(rules=CONFLICT))
    assert status == 1
    assert "both edit transformer_blocks.0.attn1" in only_line(err)
    assert "conflict" in out


def test_what_a_recipe_prints_goes_to_stderr(capsys, write_recipe):
    recipe = write_recipe()
    recipe.write_text("print('hello')\n" + recipe.read_text())
    status, out, err = run(capsys, "plan", recipe, "--json")
    assert (status, err) == (0, "hello\n")
    assert json.loads(out)["edits"]


FAILING = """
class Own(Rule):
    pattern: Pattern = node("self_attention")
    def check(self, site): {check}
    def replacement(self, site): {replacement}
"""


@pytest.mark.parametrize(
    ("check", "replacement", "layers", "where"),
    [
        ("return site.nothing", "return None", "every(1)", "Own at transformer_blocks.0.attn1: AttributeError"),
        ("return None", "return 1 / 0", "every(1)", "Own at transformer_blocks.0.attn1: ZeroDivisionError"),
        (
            "return None",
            "return 1",
            "where(lambda site: {}[site])",
            "Own, where(<lambda>) at transformer_blocks.0.attn1",
        ),
    ],
)
def test_an_error_in_a_rule_names_rule_site_and_line(capsys, write_recipe, check, replacement, layers, where):
    recipe = write_recipe(rules=f"[Own(layers={layers})]")
    head = "from surgery.rewriting import Pattern, Rule, node, where\n" + FAILING.format(
        check=check, replacement=replacement
    )
    recipe.write_text(head + recipe.read_text())
    status, _, err = run(capsys, "plan", recipe)
    assert status == 1
    assert where in only_line(err)
    assert f"({recipe}:" in only_line(err)


def test_selections_are_no_truth_values():
    with pytest.raises(ConfigError, match=r"write & for and, \| for or, ~ for not"):
        _ = every(2) and not indices(1)


@pytest.mark.parametrize("name", ["recipe.json", "metrics.json", "plan.json", "losses.json"])
@pytest.mark.parametrize("content", ["[1", "3", '"x"', "[]", "{}", '{"stages": 3}', "null", "[" * 10**5])
def test_json_of_the_wrong_shape_is_one_line(capsys, tmp_path, name, content):
    good = {
        "recipe.json": {"model": "digits-dit", "evaluate": {}},
        "metrics.json": {"stages": [], "seed": 0, "recipe": "r"},
    }
    for each, value in good.items():
        (tmp_path / each).write_text(json.dumps(value))
    (tmp_path / name).write_text(content)
    assert main(["report", str(tmp_path)]) == 1
    assert only_line(capsys.readouterr().err)


@pytest.mark.parametrize("count", [0, -3, 10**30])
def test_a_number_of_samples_that_cannot_be_drawn_is_refused(capsys, tmp_path, count):
    status, _, err = run(capsys, "sample", tmp_path, f"--count={count}")
    assert status == 2
    assert f"--count {count}: name a number from 1" in only_line(err)


def test_a_folder_is_of_one_run_at_a_time(tmp_path):
    busy = pytest.raises(RecipeError, match="another process runs in this folder")
    with locked(tmp_path / "run"), busy, locked(tmp_path / "run"):
        pass
    with locked(tmp_path / "run"):
        (tmp_path / "run" / "samples").mkdir()
        (tmp_path / "run" / "samples" / ".teacher.png.7.tmp").write_text("cut off")
        (tmp_path / "run" / "recipe.json").write_text("{}")
        RunFolder.open(tmp_path / "run", {}, resume=True)
    assert [p.name for p in (tmp_path / "run").rglob("*") if p.is_file()] == ["recipe.json"]


@pytest.mark.parametrize("differing", ["the plan", "the code of its rules", "the teacher's weights", "the data"])
def test_a_run_is_resumed_only_with_what_it_was_begun_with(tmp_path, differing):
    RunFolder.open(tmp_path / "run", {"seed": 0}, resume=False, identity={differing: "1", "other": "2"})
    RunFolder.open(tmp_path / "run", {"seed": 0}, resume=True, identity={differing: "1", "other": "2"})
    with pytest.raises(RecipeError, match=f"it differs in {differing};"):
        RunFolder.open(tmp_path / "run", {"seed": 0}, resume=True, identity={differing: "3", "other": "2"})


def test_the_folder_of_a_run_stands_for_its_student(capsys, tmp_path, tiny_dit):
    surgery.save(load_pretrained(str(tiny_dit)).model, tmp_path / "run" / "model")
    (tmp_path / "run" / "recipe.json").write_text('{"model": "tiny"}')
    status, out, _ = run(capsys, "inspect", tmp_path / "run")
    assert status == 0
    assert "Attention" in out
    assert "same architecture" in run(capsys, "diff", tmp_path / "run", tiny_dit)[1]


def test_two_sizes_of_a_class_are_compared(capsys, tmp_path):
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 1,
        "sample_size": 8,
        "num_embeds_ada_norm": 10,
    }
    for name, channels in (("four", 4), ("one", 1)):
        DiTTransformer2DModel(**sizes, in_channels=channels).save_pretrained(tmp_path / name)
    status, out, _ = run(capsys, "diff", tmp_path / "four", tmp_path / "one")
    assert status == 0
    assert "pos_embed" in out


def test_presets_are_listed_and_suggested(capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no test needs a network
    status, out, _ = run(capsys, "inspect", "--presets")
    assert status == 0
    assert "facebook/DiT-XL-2-256" in out.splitlines()
    status, _, err = run(capsys, "inspect", "facebook/DiT-XL-256")
    assert status == 2
    assert "cannot be fetched from the hub (it cannot be reached, and its cache has no such model)" in only_line(err)
    assert "did you mean 'facebook/DiT-XL-2-256'?" in only_line(err)


@pytest.mark.parametrize(
    "change", [{"num_layers": "x"}, {"sample_size": [1]}, {"patch_size": 0}, {"num_attention_heads": None}]
)
def test_a_malformed_folder_of_diffusers_is_one_line(capsys, tmp_path, change):
    DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8).save_pretrained(
        tmp_path
    )
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    status, _, err = run(capsys, "inspect", tmp_path)
    assert status == 1
    assert "cannot be loaded" in only_line(err)
