"""What runs around a forward, or instead of it, is in the loaded student too, or else refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import accelerate
import pytest
import torch
from torch import nn

import surgery
from surgery.errors import ArtifactError
from surgery.rules import mlp_ratio
from tests.artifact.test_round_trip import student
from tests.artifact.test_saving import CALL, Net
from tests.tracing.test_exact import assert_same

Change = Callable[[nn.Module], object]


def pre(module):
    module.register_forward_pre_hook(lambda module, args: None)


def post(module):
    module.register_forward_hook(lambda module, args, out: None, always_call=True)


def with_keywords(module):
    module.register_forward_pre_hook(lambda module, args, kwargs: None, with_kwargs=True)


def own_forward(module):
    forward = module.forward
    module.forward = lambda *args, **kwargs: forward(*args, **kwargs)


CHANGES: list[Change] = [pre, post, with_keywords, own_forward]
IN_DIT = ["", "transformer_blocks.0.ff", "transformer_blocks.1.attn1"]


@pytest.mark.parametrize("path", IN_DIT)
@pytest.mark.parametrize("change", CHANGES)
def test_hooks_and_forwards_of_an_instance_are_refused_by_name(tmp_path: Path, change: Change, path: str) -> None:
    model = student()
    change(model.get_submodule(path))
    words = f"as it is: {path or 'the model'}: forward is .*{change.__name__}.*; remove hooks"
    with pytest.raises(ArtifactError, match=words) as caught:
        surgery.save(model, tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("removed", [False, True])
def test_what_moves_weights_is_no_matter(tmp_path: Path, removed: bool) -> None:
    model = student()
    block = model.transformer_blocks[0]
    accelerate.hooks.add_hook_to_module(block, accelerate.hooks.ModelHook())
    if removed:
        accelerate.hooks.remove_hook_from_module(block)  # leaves the class's forward on the instance
    surgery.save(model, tmp_path)


class Hooked(Net):
    """Its blocks bring hooks of their own, one bound to the model."""

    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor
        for block in self.blocks:
            block.mlp.register_forward_hook(self.scale)
        self.blocks[0].norm.register_forward_pre_hook(lambda module, args: (args[0] + 1,))

    def scale(self, module, args, out):
        return self.factor * out


def hooked_student(model: nn.Module) -> nn.Module:
    return surgery.rewrite(model.eval(), [mlp_ratio(3)], CALL).eval()


def test_hooks_that_the_class_registers_are_those_of_base(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before, base = hooked_student(Hooked()), Hooked()
    after = surgery.load(surgery.save(before, tmp_path), base=base)
    base.factor = 0.0  # the hooks of the loaded student are bound to it
    assert_same(before(**CALL), after(**CALL))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("whose", ["teacher", "student", "base"])
def test_a_base_with_other_hooks_is_refused(tmp_path: Path, change: Change, whose: str) -> None:
    path = "blocks.1.norm"
    teacher, base = Hooked(), Hooked()
    models = {"teacher": teacher, "base": base}
    if whose in models:
        change(models[whose].get_submodule(path))
    model = hooked_student(teacher)
    if whose == "student":
        change(model.get_submodule(path))
    folder = surgery.save(model, tmp_path)
    with pytest.raises(ArtifactError, match=f"was made from: {path}: forward is .*{change.__name__}"):
        surgery.load(folder, base=base)


@pytest.mark.parametrize("change", CHANGES)
def test_hooks_of_a_new_module_are_refused_whatever_the_class(tmp_path: Path, change: Change) -> None:
    model = hooked_student(Net())
    change(model.blocks[0].mlp[0])
    with pytest.raises(ArtifactError, match=r"blocks\.0\.mlp\.0: forward is "):
        surgery.save(model, tmp_path)
