"""What is stated of a stage's memory is what a real step takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from surgery.rewriting.commit import record_of
from surgery.training.distil import Distil, Pairs, sites_of
from surgery.training.finetune import Finetune, backward, learning
from surgery.training.lora import LoRA
from surgery.training.objective import Objective
from surgery.training.optim import requiring_grad
from surgery.training.rehearse import Alive, Rehearsal, Rehearsed, StageMemory
from tests.training.test_options import new_of, rewritten, run, shared
from tests.training.test_wired import wired

SAMPLES = 12
BLOCKS = {path: path for path in ("transformer_blocks.0", "transformer_blocks.1")}


def rehearsal(name: str = "DiTPipeline") -> Rehearsal:
    teacher, data = wired(name)
    student = rewritten(name)
    return Rehearsal(teacher, student, record_of(student).edits, data.example(0, "cpu", SAMPLES))


def finetuned(**options: Any) -> StageMemory:
    return rehearsal().finetune(Finetune(**options), BLOCKS)


@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"target": "teacher"}], ids=str)
def test_as_much_is_alive_as_in_a_real_step(options: dict[str, Any]) -> None:
    config = Finetune(**options)
    (teacher, data), student = wired("DiTPipeline"), copy.deepcopy(rewritten("DiTPipeline"))
    forward = Rehearsed(data.example(0, "cpu", SAMPLES))
    with learning(teacher, student, new_of(student), config) as learns, requiring_grad(learns.parameters.values()):
        blocks = BLOCKS if config.parts.blocks else {}
        objective = Objective(config.parts, teacher, student, student, blocks, None)
        with Alive() as alive:
            backward(objective, forward, 0)
        gradients = sum(parameter.nbytes for parameter in learns.parameters.values())
    stated = finetuned(**options)
    assert stated.gradients == gradients
    assert stated.activations == pytest.approx(alive.peak - gradients, rel=0.02)


def test_as_much_is_alive_as_in_a_real_step_of_distillation() -> None:
    (teacher, data), student = wired("DiTPipeline"), copy.deepcopy(rewritten("DiTPipeline"))
    pairs = Pairs(teacher, student, sites_of(record_of(student).edits, teacher, student))
    with requiring_grad(pairs.parameters.values()), Alive() as alive:
        pairs.losses([Rehearsed(data.example(0, "cpu", SAMPLES))], backward=True)
    stated = rehearsal().distil(Distil())
    assert stated is not None
    assert stated.gradients == sum(parameter.nbytes for parameter in pairs.parameters.values())
    assert stated.gradients + stated.activations == pytest.approx(alive.peak, rel=0.05)


def test_weights_moments_and_averages_are_those_of_the_stage() -> None:
    teacher, student, data = shared()
    inherited = sum(p.nbytes for p in teacher.parameters())
    new = sum(p.nbytes for path in new_of(student) for p in student.get_submodule(path).parameters())
    buffers = sum(b.nbytes for b in teacher.buffers())
    kept = inherited - sum(p.nbytes for p in teacher.transformer_blocks[1].ff.parameters())
    inputs = data.example(0, "cpu", SAMPLES)
    stated = Rehearsal(teacher, student, record_of(student).edits, inputs)
    frozen, whole = (stated.finetune(Finetune(inherited_lr=rate), {}) for rate in (0, 1))
    assert frozen.weights == inherited + new + buffers
    assert whole.weights == frozen.weights + kept
    assert (frozen.gradients, whole.gradients) == (new, new + kept)
    assert (frozen.average, whole.average) == (new, new + kept)
    assert whole.moments == pytest.approx(2 * whole.gradients, rel=0.01)  # and a count of steps for each
    assert whole.total == whole.weights + whole.gradients + whole.moments + whole.average + max(
        whole.activations, whole.update
    )


def test_options_take_less() -> None:
    plain = finetuned()
    assert finetuned(checkpointing=True).activations < plain.activations
    assert finetuned(optimizer="muon").moments < plain.moments
    assert finetuned(lora=LoRA(rank=1)).gradients < plain.gradients
    assert finetuned(target="teacher").activations > plain.activations


def test_a_rehearsal_changes_nothing() -> None:
    student = rewritten("DiTPipeline")
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    finetuned(lora=LoRA(rank=1), checkpointing=True, target="teacher")
    after = student.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not student.is_gradient_checkpointing
    assert run(steps=1)[1]  # and it still trains
