from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surgery.errors import ConfigError, RewriteError, TrainingError
from surgery.training.checkpoint import CheckpointStore
from surgery.training.distil import Distil, distil
from surgery.training.record import LossRecord
from tests.training import tiny
from tests.training.tiny import OTHER_SITE, SITE, Mixer

FAST = Distil(steps=4, batch_size=8, warmup=1, checkpoint_every=2)
BOTH = {OTHER_SITE: "l1", SITE: "l2"}


def run(
    teacher: nn.Module, student: nn.Module, sites: dict[str, str], config: Distil = FAST, **more: Any
) -> list[LossRecord]:
    lessons = tiny.sites(teacher, student, sites)
    data = tiny.data(next(teacher.parameters()).dtype)
    return distil(teacher, student, lessons, data, config, seed=0, **more)


def test_the_loss_is_that_of_equation_2() -> None:
    """By hand: noise a batch, run the teacher, give its activations to the new operators, compare.

    Losses are shares of those that zeros have, here in the same batch, as it is the first.
    """
    teacher, student = tiny.teacher().eval(), tiny.student(SITE, OTHER_SITE).eval()
    calls: dict[str, tuple[Any, Any, Tensor]] = {}
    batches = tiny.data().source(teacher, stage="distil", batch_size=8, seed=0)
    handles = [
        teacher.get_submodule(path).register_forward_hook(
            lambda _m, args, kwargs, out, path=path: calls.update({path: (args, kwargs, out)}),
            with_kwargs=True,
        )
        for path in BOTH
    ]
    with torch.no_grad():
        teacher(**batches.training(0)[0].inputs)
        new = {p: student.get_submodule(p)(*args, **kwargs) for p, (args, kwargs, _) in calls.items()}
    for handle in handles:
        handle.remove()
    first = run(teacher, student, BOTH)[0]
    old = {path: out for path, (_, _, out) in calls.items()}
    for path, loss in ((OTHER_SITE, F.l1_loss), (SITE, F.mse_loss)):
        zeros = loss(torch.zeros_like(old[path]), old[path])
        assert first.sites[path] == pytest.approx((loss(new[path], old[path]) / zeros).item())
    assert first.loss == pytest.approx(sum(first.sites.values()))
    assert (first.stage, first.step) == ("distil", 1)


def test_gradients_of_the_sites_do_not_mix() -> None:
    """Two sites trained at once come to the same weights as each trained alone, if nothing is clipped."""
    config = FAST.model_copy(update={"clip": 1e9})
    both, alone = tiny.student(SITE, OTHER_SITE), tiny.student(SITE)
    run(tiny.teacher(), both, BOTH, config)
    run(tiny.teacher(), alone, {SITE: "l2"}, config)
    ours, theirs = both.get_submodule(SITE), alone.get_submodule(SITE)
    assert tiny.same_bits(tiny.weights(ours), tiny.weights(theirs))


def test_only_the_sites_train() -> None:
    student = tiny.student()
    before = tiny.weights(student)
    run(tiny.teacher(), student, {SITE: "l1"})
    changed = {name for name, now in tiny.weights(student).items() if not torch.equal(now, before[name])}
    assert changed == {f"{SITE}.{name}" for name, _ in Mixer().named_parameters()}


def test_the_teacher_is_untouched() -> None:
    teacher = tiny.teacher().train()
    teacher.pos_embed.requires_grad_(False)
    before, flags = tiny.weights(teacher), [p.requires_grad for p in teacher.parameters()]
    run(teacher, tiny.student(SITE, OTHER_SITE), BOTH)
    assert tiny.same_bits(before, tiny.weights(teacher))
    assert [p.requires_grad for p in teacher.parameters()] == flags
    assert all(p.grad is None for p in teacher.parameters())
    assert all(module.training and not module._forward_hooks for module in teacher.modules())


def test_one_pass_of_the_teacher_in_a_step(tmp_path: Any) -> None:
    teacher = tiny.teacher()
    passes: list[bool] = []
    teacher.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    records = run(teacher, tiny.student(SITE, OTHER_SITE), BOTH, checkpoints=CheckpointStore(tmp_path))
    judged = [r.step for r in records if r.validation is not None]
    assert judged == [2, 4]
    assert passes == [False] * (1 + FAST.steps + len(judged))  # the first measures what losses are shares of


class Zeros(Mixer):
    """Gives zeros, and learns nothing."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        return 0 * super().forward(hidden_states)


class Scaled(nn.Module):
    """Gives what another module gives, times a number."""

    def __init__(self, module: nn.Module, scale: float) -> None:
        super().__init__()
        self.module, self.scale = module, scale

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.scale * self.module(*args, **kwargs)


@pytest.mark.parametrize("loss", ["l1", "l2", "huber"])
def test_zeros_have_a_loss_of_one_at_each_site(loss: str) -> None:
    student = tiny.student(SITE, OTHER_SITE)
    for path in BOTH:
        student.set_submodule(path, Zeros())
    first = run(tiny.teacher(), student, dict.fromkeys(BOTH, loss))[0]
    assert [*first.sites.values()] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_losses_of_sites_do_not_rest_on_the_scale_of_their_outputs(loss: str) -> None:
    """In powers of two, which nothing rounds; of L1 and L2 this holds whatever the scale."""

    def losses(scale: float) -> float:
        teacher, student = tiny.teacher(), tiny.student(SITE)
        for model in (teacher, student):
            model.set_submodule(SITE, Scaled(model.get_submodule(SITE), scale))
        return run(teacher, student, {SITE: loss})[0].sites[SITE]

    assert losses(1.0) == losses(2.0**-12) == losses(2.0**7)


def test_a_site_of_zeros_keeps_its_loss() -> None:
    teacher, student = tiny.teacher(), tiny.student(SITE)
    teacher.set_submodule(SITE, Scaled(teacher.get_submodule(SITE), 0.0))
    assert 0 < run(teacher, student, {SITE: "l2"})[0].sites[SITE] < 100


def test_the_loss_falls() -> None:
    config = Distil(steps=80, batch_size=16, lr=1e-2, warmup=5)
    records = run(tiny.teacher(), tiny.student(), {SITE: "l2"}, config)
    first, last = [r.validation for r in records if r.validation is not None]
    assert last < first
    assert sum(r.loss for r in records[-10:]) < 0.8 * sum(r.loss for r in records[:10])


def test_a_copy_of_the_operator_has_nothing_to_learn() -> None:
    student = tiny.teacher()
    before = tiny.weights(student)
    records = run(tiny.teacher(), student, {SITE: "l2"})
    assert {r.loss for r in records} == {0.0}
    assert tiny.same_bits(before, tiny.weights(student))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    student = tiny.student().to(dtype)
    before = tiny.weights(student)
    run(tiny.teacher().to(dtype), student, {SITE: "huber"}, FAST.model_copy(update={"lr": 0.1}))
    assert {p.dtype for p in student.parameters()} == {dtype}
    assert not tiny.same_bits(before, tiny.weights(student))


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"transformer_blocks.7.attn1": "l1"}, r"transformer_blocks\.7\.attn1 does not exist in the teacher"),
        ({SITE: "cosine"}, "unknown loss 'cosine', choose one of l1, l2, huber"),
        ({}, "nothing to distil"),
    ],
)
def test_bad_sites(sites: dict[str, str], message: str) -> None:
    with pytest.raises(RewriteError, match=message):
        run(tiny.teacher(), tiny.student(), sites)


def test_a_site_that_the_student_lacks() -> None:
    student = tiny.student()
    student.transformer_blocks[1].attn1 = None
    with pytest.raises(RewriteError, match=f"{SITE} does not exist in the student"):
        run(tiny.teacher(), student, {SITE: "l1"})


def test_an_output_of_another_shape_is_not_broadcast() -> None:
    student = tiny.student()
    student.set_submodule(SITE, Mixer(out=1))
    with pytest.raises(RewriteError, match=rf"{SITE}: the new operator returns shapes \[\(8, 4, 1\)\]"):
        run(tiny.teacher(), student, {SITE: "l1"})


def test_memory_shared_with_the_teacher_is_refused() -> None:
    teacher, student = tiny.teacher(), tiny.student()
    student.get_submodule(SITE).into.weight = teacher.get_submodule(SITE).to_q.weight
    with pytest.raises(RewriteError, match=f"{SITE}.into.weight is a parameter of the teacher"):
        run(teacher, student, {SITE: "l1"})


def test_a_site_that_does_not_run() -> None:
    teacher, student = tiny.teacher(), tiny.student()
    teacher.spare, student.spare = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.raises(RewriteError, match="site spare did not run"):
        run(teacher, student, {"spare": "l1"})


class Exploding(Mixer):
    """A finite loss with a gradient that is not: the root's slope at 0."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        return super().forward(hidden_states) + (self.out.bias * 0).sqrt()


def test_a_gradient_that_is_not_finite_stops() -> None:
    student = tiny.student()
    student.set_submodule(SITE, Exploding())
    before = tiny.weights(student)
    with pytest.raises(TrainingError, match=f"distil: gradient of {SITE}.out.bias is not finite at step 1; lower"):
        run(tiny.teacher(), student, {SITE: "l1"})
    assert tiny.same_bits(before, tiny.weights(student))


def test_a_loss_that_is_not_finite_names_the_site() -> None:
    student = tiny.student(SITE, OTHER_SITE)
    nn.init.constant_(student.get_submodule(SITE).out.bias, float("nan"))
    with pytest.raises(TrainingError, match=f"distil: loss of {SITE} is nan at step 1; lower its lr"):
        run(tiny.teacher(), student, BOTH)


@pytest.mark.parametrize(
    "bad", [{"steps": -1}, {"batch_size": -1}, {"lr": 0.0}, {"clip": 0}, {"warmup": -1}, {"stepz": 3}]
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Distil(**bad)
