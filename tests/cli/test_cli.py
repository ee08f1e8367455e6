"""The command line as a user meets it: results, one clear line for each mistake, and the exit status."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import surgery
from surgery.cli import main
from surgery.cli.output import prints_to_stderr
from surgery.training.checkpoint import digest
from tests.nightly import nightly

STAGES = ("distil", "finetune")
CHECKPOINT = ("-shard-00001-model-00001-of-00001.safetensors", ".json")


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def only_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("surgery: ")]
    assert len(lines) == 1, err
    return lines[0].removeprefix("surgery: ")


def test_a_whole_run(capsys, tmp_path, write_recipe, tiny_dit):
    before = digest(load_file(tiny_dit / "diffusion_pytorch_model.safetensors"))
    status, out, _ = run(capsys, "apply", write_recipe(), "--out", tmp_path / "run", "--json")
    assert status == 0
    result = json.loads(out)
    assert [s["stage"] for s in result["stages"]] == ["teacher", "rewritten", "distilled", "finetuned"]
    assert result["recipe"].endswith("recipe.py")
    assert result["seed"] == 0
    for stage in result["stages"]:
        assert stage["frechet"] > 0
        assert stage["params"] > 0
        assert stage["flops"] > 0
        assert stage["latency_ms"] > 0
    names = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert names == {
        "recipe.json", "recipe.py", "run.json", "plan.json", "metrics.json", "losses.json", "graph.svg", "report.html",
        "model/surgery.json", "model/model.safetensors", "model/scheduler_config.json",
        *(f"checkpoints/{stage}-00000{n}{file}" for stage in STAGES for n in (4, 6) for file in CHECKPOINT),
        *(f"samples/{s}.png" for s in ("teacher", "rewritten", "distilled", "finetuned")),
    }  # fmt: skip
    student = surgery.load(tmp_path / "run" / "model")
    assert type(student).__name__ == "DiTTransformer2DModel"
    assert type(student.transformer_blocks[1].attn1).__name__ == "HyenaXMixer"
    assert type(student.transformer_blocks[0].attn1).__name__ == "Attention"
    assert digest(load_file(tiny_dit / "diffusion_pytorch_model.safetensors")) == before
    follow_up(capsys, tmp_path)


def follow_up(capsys, tmp_path) -> None:
    """What one does with a finished run."""
    folder = tmp_path / "run"
    assert run(capsys, "report", folder)[0] == 0
    assert run(capsys, "sample", folder, "--out", tmp_path / "s.png", "--count", 4)[0] == 0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = run(capsys, "bench", folder, "--json")
    assert status == 0
    assert all(times["student_ms"] > 0 for times in json.loads(out).values())
    status, out, _ = run(capsys, "inspect", folder / "model", "--json")
    assert status == 0
    assert [o["role"] for o in json.loads(out)].count("self_attention") == 2
    status, out, _ = run(capsys, "inspect", folder / "model", "--svg", tmp_path / "graph.svg")
    assert status == 0
    assert "HyenaXMixer" in out
    assert "HyenaXMixer" in (tmp_path / "graph.svg").read_text()
    status, _, err = run(capsys, "apply", tmp_path / "recipe.py", "--out", folder)
    assert status == 2
    assert "holds another run; continue it with --resume" in only_line(err)
    status, _, err = run(capsys, "apply", tmp_path / "recipe.py", "--out", folder, "--resume", "--set", "seed=4")
    assert status == 2
    assert "holds a run of another recipe, it differs in seed" in only_line(err)
    assert run(capsys, "apply", tmp_path / "recipe.py", "--out", folder, "--resume")[0] == 0


@nightly  # tests/run/test_killed.py shows the same of the stages themselves
def test_killed_and_resumed_the_weights_are_those_of_an_uninterrupted_run(tmp_path, write_recipe):
    recipe = write_recipe()
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "surgery", "apply", str(recipe), "--resume", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True, env=one_thread)
    broken = tmp_path / "broken"
    process = subprocess.Popen([*command, str(broken)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               env=one_thread)  # fmt: skip
    while process.poll() is None and not any(broken.glob("checkpoints/finetune-*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "model").exists()
    subprocess.run([*command, str(broken)], check=True, capture_output=True, env=one_thread)
    whole, resumed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_dry_run_writes_nothing(capsys, tmp_path, write_recipe, monkeypatch):
    recipe = write_recipe()
    status, out, _ = run(capsys, "apply", recipe, "--out", tmp_path / "run", "--dry-run", "--json")
    plan = json.loads(out)
    assert status == 0
    assert [e["path"] for e in plan["edits"]] == ["transformer_blocks.1.attn1", "transformer_blocks.3.attn1"]
    assert {s["reason"] for s in plan["skipped"]} == {"not selected by every(2)"}
    assert [stage["stage"] for stage in plan["memory"]["stages"]] == ["distil", "finetune"]
    assert all(stage["total"] > stage["weights"] > 0 == len(stage["advice"]) for stage in plan["memory"]["stages"])
    monkeypatch.setattr("surgery.run.memory._available", lambda _: 2 * 2**20)
    status, out, _ = run(capsys, "apply", recipe, "--out", tmp_path / "run", "--dry-run")
    assert "finetune does not fit; less with finetune.micro_batch=1: " in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.py"]
    status, out, _ = run(capsys, "plan", recipe)
    assert status == 0
    assert "HyenaX(kernel=4, causal=False)" in out


def test_overrides_reach_the_run(capsys, write_recipe):
    arguments = ("plan", write_recipe(), "--json", "--set", "rules.0.operator.kernel=7", "--set", "seed=3")
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert json.loads(out)["edits"][0]["replacement"]["operator"]["kernel"] == 7


MISTAKES = {
    "missing": (lambda d, w: d / "none.py", 2, "none.py: no such file"),
    "folder": (lambda d, w: d, 2, "is a folder"),
    "syntax": (lambda d, w: write(d, "recipe = ("), 2, "bad.py:1: '(' was never closed"),
    "no recipe": (lambda d, w: write(d, "recip = 1"), 2, "defines no `recipe`"),
    "wrong type": (lambda d, w: write(d, "recipe = 1"), 2, "`recipe` is a int, not a Recipe"),
    "raises": (lambda d, w: write(d, "\n1 / 0"), 2, "bad.py:2: ZeroDivisionError: division by zero"),
    "unknown key": (lambda d, w: w(distil="stepz=3"), 2, "Distil: unknown key 'stepz', did you mean 'steps'?"),
    "wrong value": (lambda d, w: w(finetune="lr='fast'"), 2, "Finetune.lr: must be a valid number"),
    "no such layer": (
        lambda d, w: w(rules="[replace_attention(HyenaX(), layers=indices(1, 9))]"),
        3,
        "indices(1, 9): no such layer: 9; the model's layers are 0 to 3",
    ),
    "no match": (
        lambda d, w: w(rules="[replace_attention(HyenaX(), layers=every(7))]"),
        3,
        "no self-attention or joint-attention to replace",
    ),
    "conflict": (
        lambda d, w: w(rules="[replace_attention(HyenaX()), replace_attention(SlidingWindow())]"),
        1,
        "both edit transformer_blocks.0.attn1",
    ),
}


def write(folder: Path, text: str) -> Path:
    (folder / "bad.py").write_text(text)
    return folder / "bad.py"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_one_line_and_leaves_nothing(mistake, capsys, tmp_path, write_recipe):
    make, expected, words = MISTAKES[mistake]
    status, out, err = run(capsys, "apply", make(tmp_path, write_recipe), "--out", tmp_path / "run")
    assert status == expected
    assert words in only_line(err)
    assert out == ""
    assert not (tmp_path / "run").exists()


def test_all_errors_of_a_recipe_come_at_once(capsys, tmp_path, write_recipe):
    recipe = write_recipe(
        rules="[replace_attention(HyenaX(kernal=4), layers=every(0))]", distil="stepz=3, lr='x'", finetune="steps=-1"
    )
    status, _, err = run(capsys, "apply", recipe, "--out", tmp_path / "run")
    assert status == 2
    lines = [line.removeprefix(f"surgery: {recipe}:") for line in err.splitlines()]
    assert [line.split(":")[1].strip() for line in lines] == [
        "HyenaX",
        "Every.n",
        "Distil.lr",
        "Distil",
        "Finetune.steps",
    ]


def test_kernels_need_no_model(capsys):
    status, out, _ = run(capsys, "inspect", "--kernels", "--json")
    assert status == 0
    shown = json.loads(out)
    names = [each["name"] for each in shown["kernels"]]
    assert names[:2] == ["flash-attn", "flash-attn-4"]
    assert {"package", "version", "serves", "note"} < set(shown["kernels"][0])
    cpu = shown["devices"][0]
    assert (cpu["device"], cpu["dtype"]) == ("cpu", "float32")
    assert set(cpu["used"].values()) == {"torch"}
    status, out, _ = run(capsys, "inspect", "--kernels")
    assert status == 0
    assert all(name in out for name in names)
    assert "scan of Mamba-2" in out


def test_kernels_that_are_installed_are_shown_with_their_version(capsys, monkeypatch):
    from surgery.operators.backends import table

    monkeypatch.setattr(table, "_version_of", lambda package, _: "2.8.3" if package == "flash-attn" else None)
    out = run(capsys, "inspect", "--kernels")[1]
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "2.8.3" in rows["flash-attn"]
    assert "not installed" in rows["natten"]


def test_inspect_needs_something_to_show(capsys):
    status, _, err = run(capsys, "inspect")
    assert status == 2
    assert only_line(err) == "inspect needs a model, e.g. digits-dit, or --kernels"


def test_wrong_usage_is_two(capsys):
    assert run(capsys, "aply", "x.py")[0] == 2
    assert run(capsys, "apply")[0] == 2
    assert run(capsys, "apply", "x.py", "--reusme")[0] == 2


def test_a_folder_with_other_files_is_left_alone(capsys, tmp_path, write_recipe):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    status, _, err = run(capsys, "apply", write_recipe(), "--out", tmp_path / "run")
    assert status == 2
    assert "holds other files; choose another --out" in only_line(err)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_loss_that_turns_nan_keeps_the_last_good_checkpoint(capsys, tmp_path, write_recipe):
    recipe = write_recipe(finetune="steps=40, batch_size=8, lr=1e30, warmup=4, checkpoint_every=1, clip=1e30")
    status, _, err = run(capsys, "apply", recipe, "--out", tmp_path / "run")
    assert status == 1
    assert "finetune" in only_line(err)
    assert "lower its lr" in only_line(err)
    assert not (tmp_path / "run" / "model").exists()
    for tensor in load_file(tmp_path / "run" / "checkpoints" / f"distil-000006{CHECKPOINT[0]}").values():
        assert not tensor.is_floating_point() or tensor.nan_to_num(0).isfinite().all()


def test_help_is_quick_and_needs_no_torch():
    code = "import sys; from surgery.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "apply" in done.stdout


def test_a_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m surgery inspect --kernels --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 1)


def test_what_libraries_say_again_is_said_once_a_command():
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("diffusers").addHandler(handler)
    for _ in range(2):
        with prints_to_stderr():
            for message in ("no bs4", "no ftfy", "no bs4"):
                logging.getLogger("diffusers.a_pipeline").warning(message)
    logging.getLogger("diffusers").removeHandler(handler)
    assert said.getvalue().split("\n") == ["no bs4", "no ftfy"] * 2 + [""]
    assert not handler.filters


def test_commands_need_no_package_that_is_not_required(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with prints_to_stderr():
        pass
