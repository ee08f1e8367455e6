"""What changes on a module after tracing is noticed: the forward is recorded afresh, no stale graph runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import nn

import surgery
from surgery.errors import GuardError
from tests.compat.models import FAMILIES, inputs, original, pair, traced
from tests.tracing.test_exact import assert_same


def assert_follows(model: nn.Module, twin: nn.Module, name: str) -> None:
    torch.manual_seed(1)
    expected = model(**inputs(name))
    torch.manual_seed(1)
    assert_same(expected, twin(**inputs(name)))


class Doubled(AttnProcessor2_0):
    """A processor whose result depends on one of its own attributes."""

    factor = 2.0

    def __call__(self, attn: Attention, *args: Any, **kwargs: Any) -> torch.Tensor:
        return super().__call__(attn, *args, **kwargs) * self.factor


def test_a_processor_set_after_tracing():
    model, twin = pair("pixart", "original")
    before = model(**inputs("pixart")).sample
    for processor in (AttnProcessor, Doubled, AttnProcessor2_0):
        model.set_attn_processor(processor()), twin.set_attn_processor(processor())
        assert_follows(model, twin, "pixart")
        assert before.equal(model(**inputs("pixart")).sample) == (processor is AttnProcessor2_0)


def test_an_attribute_of_a_processor():
    model, twin = pair("pixart", "original")
    model.set_attn_processor(Doubled()), twin.set_attn_processor(Doubled())
    assert_follows(model, twin, "pixart")
    for module in (model, twin):
        module.transformer_blocks[0].attn1.processor.factor = 3.0
    assert_follows(model, twin, "pixart")


def test_fused_projections():
    model, twin = pair("flux", "original")
    model.fuse_qkv_projections(), twin.fuse_qkv_projections()
    assert_follows(model, twin, "flux")
    model.unfuse_qkv_projections(), twin.unfuse_qkv_projections()
    assert_follows(model, twin, "flux")


@pytest.mark.parametrize("name", FAMILIES)
def test_train_mode_of_the_whole_and_of_a_part(name):
    model, twin = pair(name, "original")
    model.train(), twin.train()
    assert_follows(model, twin, name)
    for module in (model, twin):
        next(c for c in module.children() if isinstance(c, nn.ModuleList))[0].eval()
    assert_follows(model, twin, name)


def test_a_module_put_in_the_place_of_another():
    model, twin = pair("dit", "original")
    for module in (model, twin):
        module.transformer_blocks[0].ff.net[0] = nn.Sequential(nn.Linear(16, 64), nn.ReLU())
        torch.nn.init.ones_(module.transformer_blocks[0].ff.net[0][0].weight)
        torch.nn.init.ones_(module.transformer_blocks[0].ff.net[0][0].bias)
    assert_follows(model, twin, "dit")


def test_blocks_taken_out_and_put_in():
    model, twin = pair("sd3", "original")
    whole = model(**inputs("sd3")).sample
    for module in (model, twin):
        module.transformer_blocks.insert(0, module.transformer_blocks[0])
    assert_follows(model, twin, "sd3")
    for module in (model, twin):
        del module.transformer_blocks[:2]
    assert_follows(model, twin, "sd3")
    assert not whole.equal(model(**inputs("sd3")).sample)


def test_a_compiled_module_notices_too():
    torch._dynamo.reset()
    model, twin = pair("pixart", "original")
    compiled = torch.compile(twin, fullgraph=True, backend="eager")
    assert_follows(model, compiled, "pixart")
    model.set_attn_processor(Doubled()), twin.set_attn_processor(Doubled())
    assert_follows(model, compiled, "pixart")


class Varied(nn.Module):
    """Gives one tensor or two, by a flag."""

    pair = False

    def forward(self, x: torch.Tensor) -> Any:
        return (x, x) if self.pair else x + 1


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Varied()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return y[0] if isinstance(y, tuple) else y


def test_a_result_of_another_structure_is_refused():
    twin = surgery.trace(Outer(), {"x": torch.ones(2)}).module()
    assert twin(torch.ones(2)).equal(torch.full((2,), 2.0))
    twin.inner.pair = True
    with pytest.raises(GuardError, match="the structure of its result varies"):
        twin(torch.ones(2))


class Sets(nn.Module):
    """Hands a factor down through an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Scaled()

    def forward(self, x: torch.Tensor, factor: Any = None) -> torch.Tensor:
        before, self.inner.scale["x"] = self.inner.scale["x"], float(factor or 1)
        try:
            return self.inner(x)
        finally:
            self.inner.scale["x"] = before


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = {"x": 1.0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale["x"]


def test_a_forward_that_sets_what_it_reads_is_refused():
    twin = surgery.trace(Sets(), {"x": torch.ones(2)}).module()
    assert twin(torch.ones(2)).equal(torch.ones(2))
    with pytest.raises(GuardError, match="sets scale as it runs"):
        twin(torch.ones(2), "3")


def test_other_weights_need_no_new_recording():
    twin = traced(original("dit"), "dit")
    twin(**inputs("dit"))
    recordings = twin._surgery.scope.recordings
    with torch.no_grad():
        for weight in twin.parameters():
            weight += 1
    twin(**inputs("dit"))
    assert len(recordings) == 1
