"""The script that makes the model runs, and what it writes can be judged and edited."""

from __future__ import annotations

import json

import pytest
import torch

from surgery.digits.bench import REFERENCE, Bench, load_reference
from surgery.digits.classifier import load_classifier
from surgery.digits.judge import Judge
from surgery.digits.train import build_model, build_scheduler
from surgery.evaluate.settings import Evaluate
from surgery.fashion import train
from surgery.fashion.__main__ import main
from surgery.fashion.train import Clock, Training
from surgery.models import load_pretrained
from surgery.operators import SlidingWindow
from surgery.recipe import Distil, FashionMNIST, Finetune, Recipe
from surgery.rules import replace_attention
from surgery.run.stages import apply
from tests.fashion.test_data import write

TINY = {**train.ARCHITECTURE, "num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 8}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of data, and what the script makes of it in two steps with a tiny model."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("surgery.fashion.__main__.ARCHITECTURE", TINY)
        patched.setattr("surgery.fashion.card.STEPS", 2)
        patched.setattr("surgery.fashion.card.evaluate_samples", drawn)
        data, out = write(tmp_path_factory.mktemp("data"), 120), tmp_path_factory.mktemp("out")
        options = {"--data": data, "--out": out, "--steps": 2, "--batch-size": 4, "--epochs": 5, "--samples": 60}
        main([*(str(each) for pair in options.items() for each in pair), "--eager"])
    return data, out


def drawn(model, scheduler, *, samples, seed):
    return torch.randn(samples, 1, 28, 28, generator=torch.Generator().manual_seed(seed)), torch.arange(samples) % 10


def test_the_script_writes_every_file(made):
    _, out = made
    names = {"config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json", "features.safetensors"}
    assert {file.name for file in out.iterdir()} == names | {
        "reference.safetensors", "README.md", "metrics.json", "samples.png"
    }  # fmt: skip
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["steps"] == 2
    assert len(figures["frechet"]) == 5
    assert "2 steps of 4 samples" in (out / "README.md").read_text()
    model = load_pretrained(str(out)).model
    assert next(model.parameters()).dtype == torch.float32
    assert all(torch.equal(p, p.bfloat16().float()) for p in model.parameters())


def test_the_architecture_is_small_in_bfloat16():
    assert 2 * sum(p.numel() for p in build_model(0, train.ARCHITECTURE).parameters()) < 8e6


def test_a_recipe_edits_and_judges_it(made, tmp_path, monkeypatch):
    data, out = made
    judge = Judge(load_classifier(out / "features.safetensors", 28), load_reference(out / REFERENCE))
    monkeypatch.setattr(Bench, "judge", judge)
    recipe = Recipe(
        model=str(out),
        data=FashionMNIST(folder=data),
        rules=[replace_attention(SlidingWindow(window=4))],
        distil=Distil(steps=0),
        finetune=Finetune(steps=1, batch_size=2, target="teacher"),
        evaluate=Evaluate(samples=50, steps=1, batch_size=50),
    )
    run = apply(recipe, tmp_path / "run")
    teacher, *_, student = run.metrics.stages
    assert teacher.values["frechet"] > 0
    assert 0 <= student.values["accuracy"] <= 1
    assert "FashionPipeline" in (tmp_path / "run" / "report.html").read_text()


def test_training_repeats_and_lowers_the_loss():
    training = Training(steps=6, batch_size=8, warmup=1, lr=2e-2, ema_decay=0.0, compiled=False)
    shades = torch.linspace(-1, 1, 40).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)
    pictures = train.Labelled(shades, torch.arange(40) % 10)

    def run():
        model = build_model(0, TINY)
        train.train(model, build_scheduler(), pictures, training, lambda clock, loss, average: None)
        return model

    first, again = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    torch.manual_seed(1)
    with torch.no_grad():
        after = train.denoising_loss_of(first, build_scheduler(), training)(*pictures)
    assert after < 0.97  # of a model that gives zeros it is 1


def test_a_clock_ends_with_the_minutes_and_its_rate_falls_to_zero(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("surgery.fashion.train.time.monotonic", lambda: now[0])
    clock, rates = Clock(Training(minutes=1, warmup=5)), []
    while clock.done < 1:
        rates.append(clock.lr)
        clock.tick()
        now[0] += 100 if clock.step < train.WARM else 1
    assert clock.step == train.WARM + 59  # the tick that starts it is counted
    assert rates[:5] == sorted(rates[:5])
    assert rates[train.WARM :] == sorted(rates[train.WARM :], reverse=True)
    assert rates[-1] < 0.05 * max(rates)
