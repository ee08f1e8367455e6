"""What goes wrong in other rewrite engines does not go wrong here: a failure anywhere leaves nothing half edited."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import surgery
from surgery.errors import RewriteError
from surgery.operators import MixerDims
from surgery.rewriting import Replacement, Rule, Site, commit, indices, node
from surgery.rewriting.graphs import edited_module
from surgery.rules import drop_blocks
from surgery.testing import BlockSpec, ModelSpec, build, inputs
from tests.compat.models import inputs as family_inputs
from tests.compat.models import original
from tests.rewriting.gates import Armed, ArmedGate, ArmedScale, Countdown, Gate, GateMLP, Injected, whole_state
from tests.rewriting.operators import Scale
from tests.tracing.test_exact import assert_same

BLOCK = BlockSpec("separate", "module", "layer", modulated=True, in_place=False)
INLINE = BlockSpec("separate", "inline", "rms", modulated=False, in_place=True)
SPEC = ModelSpec(2, 4, True, (INLINE, BLOCK, BLOCK), shared=False, branch=5)


class ScaleOf(Rule):
    """Puts a scale in the place of attention, whatever it is."""

    operator: Any = Scale()

    def replacement(self, site: Site) -> Replacement:
        width = site.operator.in_shape[-1]
        dims = MixerDims(dim=width, heads=1, head_dim=width, qkv_bias=False, out_bias=False)
        return Replacement(operator=self.operator, dims=dims, inherit="projections")


def swap(operator: Any = Scale()) -> Rule:  # noqa: B008
    return ScaleOf(pattern=node("self_attention"), layers=~indices(0), operator=operator)


def gate(operator: Any = Gate()) -> Rule:  # noqa: B008
    return GateMLP(layers=~indices(0), operator=operator)


ARMED = {swap: ArmedScale, gate: ArmedGate}
MODELS = {
    "random": lambda: (build(SPEC), inputs(SPEC, (2, 4, 3))),
    "dit": lambda: (original("dit"), family_inputs("dit")),
}
every_model = pytest.mark.parametrize("name", MODELS)


def failures(model: nn.Module, example: dict[str, Any], arm: Callable[[Countdown], list[Rule]]) -> int:
    """In how many places a rewrite can fail: at the first call that counts down, the second, ..., until it succeeds.

    Nothing may have changed after any of these failures.
    """
    graph = surgery.trace(model, example)
    before = whole_state(model, graph)
    for count in range(200):
        countdown = Countdown(count)
        try:
            student = surgery.rewrite(graph, arm(countdown))
            countdown.left = sys.maxsize
            student(**example)
        except (Injected, RewriteError) as error:
            reason = str(error)
        else:
            reason = ""
        assert_same(before, whole_state(model, graph))
        if not reason:
            return count
        assert "injected" in reason
    raise AssertionError("it fails for ever")


@every_model
@pytest.mark.parametrize("make", ARMED)
@pytest.mark.parametrize("callback", ["check", "replacement", "build", "initialise"])
def test_a_callback_that_fails_changes_nothing(name, make, callback):
    model, example = MODELS[name]()

    def arm(countdown: Countdown) -> list[Rule]:
        rule = make(ARMED[make](callback=callback, countdown=countdown))
        armed = Armed(pattern=rule.pattern, layers=rule.layers, base=rule, callback=callback, countdown=countdown)
        return [drop_blocks(layers=indices(0)), armed]

    assert failures(model, example, arm) >= {"random": 2, "dit": 1}[name]


STEPS = [
    (commit, "put"),
    (commit, "edit_scope"),
    (commit, "set_record"),
    (edited_module, "set_edit"),
    (edited_module, "rewired"),
]


@every_model
@pytest.mark.parametrize(("module", "step"), STEPS, ids=lambda each: getattr(each, "__name__", each))
def test_a_step_of_the_commit_that_fails_changes_nothing(name, module, step, monkeypatch):
    model, example = MODELS[name]()
    real = getattr(module, step)

    def arm(countdown: Countdown) -> list[Rule]:
        def failing(*args: Any) -> Any:
            countdown.tick()
            return real(*args)

        monkeypatch.setattr(module, step, failing)
        return [drop_blocks(layers=indices(0)), swap(), gate()]

    assert failures(model, example, arm) >= 1
