"""The embedded model is what its card says; the script that made it still runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from surgery.digits import FOLDER, train
from surgery.digits.__main__ import main
from surgery.digits.data import load_digits
from surgery.digits.judge import evaluate_samples, shipped_judge
from surgery.digits.pipeline import DigitsPipeline
from surgery.digits.train import Training, build_model, build_scheduler, denoising_loss, learning_rate
from surgery.models import load_pretrained
from surgery.store.order import seeded


def figure(line: str, card: str = (FOLDER / "README.md").read_text()) -> float:
    """The first number in the row of the card's table that starts with ``line``."""
    found = re.search(rf"^\| {re.escape(line)}.*\| ([\d.]+)", card, re.MULTILINE)
    assert found, line
    return float(found.group(1))


def test_the_shipped_files_are_small_and_have_the_scripts_architecture():
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 12e6
    config = json.loads((FOLDER / "config.json").read_text())
    assert train.ARCHITECTURE.items() <= config.items()
    scheduler = load_pretrained("digits-dit").scheduler
    assert torch.equal(scheduler.alphas_cumprod, build_scheduler().alphas_cumprod)


def test_the_card_states_the_required_quality():
    assert figure("ratio of the two") <= 0.8
    assert figure("Frechet distance between") == pytest.approx(shipped_judge().real_split_distance(), abs=0.002)
    for word in ("CC BY 4.0", "python -m surgery.digits", "Seed 0", "Alpaydin"):
        assert word in (FOLDER / "README.md").read_text()


def test_the_shipped_model_draws_digits():
    """A tenth of the protocol's samples and fewer steps; the card holds the full figures."""
    pretrained = load_pretrained("digits-dit")
    images, labels = evaluate_samples(pretrained.model, pretrained.scheduler, samples=100, steps=10)
    quality = shipped_judge().judge(images, labels)
    assert quality.class_accuracy > 0.9
    assert quality.frechet < 10


def test_guidance_and_the_null_class_were_trained():
    """Without a class the model draws all digits; the class sharpens what it draws."""
    pretrained = load_pretrained("digits-dit")
    pipeline = DigitsPipeline(pretrained.model, pretrained.scheduler)
    null = pipeline([10] * 60, num_inference_steps=6, generator=seeded("null"), output_type="latent").images
    with torch.inference_mode():
        drawn = shipped_judge().classifier(null).argmax(1)
    assert len(drawn.unique()) >= 7


def test_training_repeats_and_lowers_the_loss():
    data, scheduler = load_digits(), build_scheduler()
    training = Training(steps=6, batch_size=16, warmup=2)

    def run():
        model, losses = build_model(training.seed), []
        train.train(model, scheduler, data, training, lambda step, loss, average: losses.append(loss))
        return model, losses

    (first, losses), (again, _) = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert losses[-1] < losses[0]
    with torch.inference_mode():
        before, after = (
            denoising_loss(model, scheduler, data.select(torch.arange(64)), 0.1, seeded("after"))
            for model in (build_model(0), first)
        )
    assert after < before


def test_the_learning_rate_warms_up_and_decays_to_zero():
    training = Training(steps=100, warmup=10, lr=2.0)
    rates = [learning_rate(step, training) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9] == rates[10] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


def test_the_script_writes_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr("surgery.digits.__main__.train_classifier", lambda digits: shipped_judge().classifier)
    monkeypatch.setattr(
        "surgery.digits.card.evaluate_samples",
        lambda model, scheduler: (load_digits().images[:1000], torch.arange(1000) % 10),
    )
    main(["--steps", "1", "--out", str(tmp_path)])
    shipped = {path.name for path in FOLDER.iterdir() if path.suffix in (".json", ".safetensors")}
    assert {path.name for path in tmp_path.iterdir()} == shipped | {"README.md"}
    assert "--steps 1 " in (tmp_path / "README.md").read_text()
    assert load_pretrained(str(tmp_path)).scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert "step 1/1" in capsys.readouterr().out
