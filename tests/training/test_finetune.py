from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from surgery.errors import ConfigError, RecipeError, TrainingError
from surgery.store import InMemory
from surgery.training.checkpoint import CheckpointStore, TrainState
from surgery.training.distil import Distil, distil
from surgery.training.finetune import Finetune, finetune
from surgery.training.forward import WiredForward
from surgery.training.record import LossRecord
from surgery.training.wired import WiredBatches
from tests.training import tiny
from tests.training.test_wired import wired

FAST = Finetune(steps=4, batch_size=8, lr=1e-3, warmup=1, checkpoint_every=2)


def run(student: nn.Module, config: Finetune = FAST, **more: Any) -> list[LossRecord]:
    data = tiny.data(next(student.parameters()).dtype)
    return finetune(tiny.teacher(), student, (tiny.SITE,), data, config, seed=0, **more)


class LastState(CheckpointStore):
    """Keeps what it is asked to save in memory."""

    def __init__(self) -> None:
        super().__init__("unused")
        self.states: list[TrainState] = []

    def save(self, stage: str, state: TrainState, identity: Any) -> None:
        parameters = {name: tensor.clone() for name, tensor in state.parameters.items()}
        self.states.append(TrainState(state.step, parameters, {}, {}, list(state.records)))


def test_the_loss_falls_and_is_judged_at_checkpoints() -> None:
    records = run(tiny.student(), Finetune(steps=80, batch_size=16, lr=3e-3, warmup=5, checkpoint_every=10))
    judged = {r.step: r.validation for r in records if r.validation is not None}
    assert list(judged) == list(range(10, 81, 10))
    assert judged[80] < judged[10]
    assert [r.step for r in records] == list(range(1, 81))
    assert sum(r.loss for r in records[-10:]) < 0.9 * sum(r.loss for r in records[:10])


def test_inherited_weights_learn_at_their_own_rate() -> None:
    one, two = tiny.student(), tiny.student()
    before = tiny.weights(one)
    run(one, FAST)
    run(two, FAST.model_copy(update={"inherited_lr": 1e-6}))
    moved = {name: (tensor - before[name]).abs().max() for name, tensor in tiny.weights(two).items()}
    new = {name for name in before if name.startswith(f"{tiny.SITE}.")}
    assert all(moved[name] > 1e-4 for name in new)
    assert all(moved[name] < 1e-6 for name in before.keys() - new)
    assert not tiny.same_bits(tiny.weights(one), tiny.weights(two))


def test_a_rate_of_0_trains_new_operators_only() -> None:
    student, store = tiny.student(), LastState()
    before = tiny.weights(student)
    run(student, FAST.model_copy(update={"inherited_lr": 0}), checkpoints=store)
    after = tiny.weights(student)
    new = {name for name in before if name.startswith(f"{tiny.SITE}.")}
    assert {name for name in before if not torch.equal(before[name], after[name])} == new
    assert store.states[-1].parameters.keys() == new
    assert all(p.grad is None and p.requires_grad for p in student.parameters())


def test_a_rate_of_0_needs_new_operators() -> None:
    config = FAST.model_copy(update={"inherited_lr": 0})
    with pytest.raises(RecipeError, match="nothing is left to train"):
        finetune(tiny.teacher(), tiny.student(), (), tiny.data(), config, seed=0)


def test_the_whole_student_trains() -> None:
    student = tiny.student().requires_grad_(False).train()
    before = tiny.weights(student)
    run(student)
    unchanged = [name for name, tensor in tiny.weights(student).items() if torch.equal(tensor, before[name])]
    assert unchanged == []
    assert not any(p.requires_grad for p in student.parameters())
    assert all(module.training for module in student.modules())


def test_the_student_ends_with_the_average() -> None:
    """The average that is expected is folded here from the weights after each step."""
    student, store = tiny.student(), LastState()
    expected = {name: p.detach().clone() for name, p in student.named_parameters()}
    config = FAST.model_copy(update={"ema_decay": 0.3, "checkpoint_every": 1})
    run(student, config, checkpoints=store)
    for step, state in enumerate(store.states):
        decay = min(0.3, (1 + step) / (10 + step)) if step else 0.0
        expected = {name: decay * e + (1 - decay) * state.parameters[name] for name, e in expected.items()}
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name])
    assert not torch.equal(student.proj_out_2.weight, store.states[-1].parameters["proj_out_2.weight"])


def test_no_average_at_decay_zero() -> None:
    student, store = tiny.student(), LastState()
    run(student, FAST.model_copy(update={"ema_decay": 0.0}), checkpoints=store)
    assert torch.equal(student.proj_out_2.weight, store.states[-1].parameters["proj_out_2.weight"])


def poisoned_from(step: int, patch: pytest.MonkeyPatch) -> None:
    clean = WiredBatches.training

    def training(self: WiredBatches, at: int) -> list[WiredForward]:
        factor = float("nan") if at >= step else 1.0
        return [
            replace(forward, taught=replace(forward.taught, target=factor * forward.taught.target))
            for forward in clean(self, at)
        ]

    patch.setattr(WiredBatches, "training", training)


def test_nan_stops_keeps_the_last_checkpoint_and_can_be_resumed(tmp_path: Path) -> None:
    store, student = CheckpointStore(tmp_path), tiny.student()
    with pytest.MonkeyPatch.context() as patch:
        poisoned_from(3, patch)
        with pytest.raises(TrainingError) as error:
            run(student, checkpoints=store)
    assert str(error.value) == (
        f"finetune: loss is nan at step 4; lower its lr (now 0.001); the checkpoint of step 2 is kept in {tmp_path}"
    )
    resumed, whole = tiny.student(), tiny.student()
    records = run(resumed, checkpoints=store)
    assert records == run(whole)
    assert tiny.same_bits(tiny.weights(resumed), tiny.weights(whole))


def test_a_batch_that_is_not_finite_is_not_blamed_on_the_learning_rate() -> None:
    whole = tiny.data()
    samples = [whole.feed.samples[number] for number in range(60)]
    samples[11] = replace(samples[11], latents=samples[11].latents / 0)
    data = replace(whole, feed=replace(whole.feed, samples=InMemory(samples)))
    config = FAST.model_copy(update={"steps": 20})
    student, teacher = tiny.student(), tiny.teacher()
    with pytest.raises(TrainingError, match=r"finetune: loss is nan at step \d+; so are its data: repair them$"):
        finetune(teacher, student, (tiny.SITE,), data, config, seed=0)
    with pytest.raises(TrainingError, match=r"distil: loss of .* is nan at step \d+; so are its data: repair them$"):
        distil(teacher, student, tiny.sites(teacher, student, {tiny.SITE: "l1"}), data, Distil(steps=20), seed=0)


def test_parameters_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """The first update overflows, and no later loss would show it before the checkpoint."""
    student = tiny.student().to(torch.float16)
    config = FAST.model_copy(update={"steps": 1, "lr": 1e9, "warmup": 0})
    with pytest.raises(TrainingError, match=r"finetune: parameter .* is not finite at step 1; lower its lr"):
        run(student, config, checkpoints=CheckpointStore(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    student = tiny.student().to(dtype)
    before = tiny.weights(student)
    records = run(student, FAST.model_copy(update={"lr": 0.01}))
    assert {p.dtype for p in student.parameters()} == {dtype}
    assert not tiny.same_bits(before, tiny.weights(student))
    assert records[-1].validation is not None


@pytest.mark.parametrize(
    "path", ["transformer_blocks.0.attn1", "transformer_blocks.1.attn2", "transformer_blocks.1.ff"]
)
def test_text_conditions_learned_variance_and_any_operator(path: str) -> None:
    model, data = wired("PixArtSigmaPipeline")
    student = copy.deepcopy(model)
    nn.init.normal_(next(student.get_submodule(path).parameters()))
    options = {"steps": 3, "batch_size": 4, "lr": 1e-2, "warmup": 0}
    records = distil(model, student, tiny.sites(model, student, {path: "l1"}), data, Distil(**options), seed=0)
    assert records[0].loss > 0
    assert len(finetune(model, student, (), data, Finetune(**options), seed=0)) == 3


def test_dropout_never_runs() -> None:
    """In train mode each block of diffusers' DiT drops labels on its own."""
    student = tiny.student().train()
    modes: set[bool] = set()
    for module in student.modules():
        module.register_forward_hook(lambda module, *_: modes.add(module.training))
    run(student)
    assert modes == {False}


@pytest.mark.parametrize("bad", [{"ema_decay": 1.0}, {"ema_decay": -0.1}, {"checkpoint_every": 0}, {"lr": -1}])
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Finetune(**bad)


def test_with_the_teacher_as_target_a_copy_of_it_has_nothing_to_learn() -> None:
    config = FAST.model_copy(update={"target": "teacher", "lr": 1e-12})
    assert all(record.loss == 0 for record in run(tiny.teacher(), config))
    assert all(record.loss > 0 for record in run(tiny.teacher(), FAST))
