"""A traced model gives the original's outputs bit for bit, at every size, or a GuardError."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DiTTransformer2DModel, PixArtTransformer2DModel
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_flatten

import surgery
from surgery.errors import GuardError, TraceError
from surgery.testing import build, inputs
from surgery.testing.strategies import model_specs, sizes
from tests.nightly import examples


def assert_same(expected: Any, actual: Any) -> None:
    (a, spec_a), (b, spec_b) = tree_flatten(expected), tree_flatten(actual)
    assert spec_a == spec_b
    for x, y in zip(a, b, strict=True):
        assert type(x) is type(y)
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


@examples(30)
@given(model_specs(), sizes, st.lists(sizes, min_size=1, max_size=3), st.booleans())
def test_random_transformers_are_exact_at_every_size(spec, example, others, bias):
    model = build(spec)
    traced = surgery.trace(model, inputs(spec, example, bias=bias)).module()
    for seed, size in enumerate([example, *others]):
        for return_dict in (True, False):
            call = inputs(spec, size, seed, bias) | {"return_dict": return_dict}
            assert_same(model(**call), traced(**call))


@examples(20)
@given(model_specs(), sizes)
def test_gradients_are_exact(spec, size):
    model = build(spec)
    traced = surgery.trace(model, inputs(spec, size)).module()
    call = inputs(spec, size, seed=1)

    def gradients(module):
        module.zero_grad()
        module(**call)["sample"].square().sum().backward()
        return [None if p.grad is None else p.grad.clone() for p in model.parameters()]

    assert_same(gradients(model), gradients(traced))


@examples(20)
@given(model_specs(), sizes)
def test_tracing_leaves_the_model_alone(spec, size):
    model = build(spec)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    classes = [type(m) for m in model.modules()]
    traced = surgery.trace(model, inputs(spec, size)).module()
    assert_same(before, dict(model.state_dict()))
    assert classes == [type(m) for m in model.modules()]
    assert isinstance(traced, type(model))
    assert list(traced.state_dict()) == list(model.state_dict())
    assert all(a is b for a, b in zip(model.parameters(), traced.parameters(), strict=True))


def dit(**changes: Any) -> DiTTransformer2DModel:
    config = {
        "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "num_layers": 3, "sample_size": 8,
        "patch_size": 2, "num_embeds_ada_norm": 10,
    }  # fmt: skip
    torch.manual_seed(0)
    return DiTTransformer2DModel(**config | changes).eval()


def dit_inputs(batch: int, side: int, device: str = "cpu") -> dict[str, torch.Tensor]:
    return {
        "hidden_states": torch.randn(batch, 4, side, side, device=device),
        "timestep": torch.zeros(batch, dtype=torch.long, device=device) + 3,
        "class_labels": torch.zeros(batch, dtype=torch.long, device=device) + 5,
    }


def pixart() -> PixArtTransformer2DModel:
    torch.manual_seed(0)
    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=8, patch_size=2,
        cross_attention_dim=16, caption_channels=12, use_additional_conditions=False,
    ).eval()  # fmt: skip


def pixart_inputs(batch: int, height: int, width: int, text: int) -> dict[str, Any]:
    mask = torch.ones(batch, text)
    mask[:, text // 2 :] = 0
    return {
        "hidden_states": torch.randn(batch, 4, height, width),
        "timestep": torch.full((batch,), 7),
        "encoder_hidden_states": torch.randn(batch, text, 12),
        "encoder_attention_mask": mask,
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


@pytest.mark.parametrize("sides", [(8, 4), (4, 8), (16, 8)])
def test_dit_at_other_batches_and_resolutions(sides):
    model = dit()
    traced = surgery.trace(model, dit_inputs(1, sides[0])).module()
    for batch in (1, 2, 5):
        for side in (*sides, 12, 6):
            call = dit_inputs(batch, side)
            assert_same(model(**call), traced(**call))


def test_pixart_at_other_batches_resolutions_and_text_lengths():
    model = pixart()
    traced = surgery.trace(model, pixart_inputs(1, 8, 8, 5)).module()
    for batch, height, width, text in [
        (1, 8, 8, 5),
        (2, 8, 8, 5),
        (3, 4, 12, 7),
        (2, 16, 8, 1),
        (1, 2, 2, 2),
    ]:
        call = pixart_inputs(batch, height, width, text)
        assert_same(model(**call), traced(**call))
        assert_same(model(**call, return_dict=False), traced(**call, return_dict=False))


def test_train_mode_draws_the_same_random_numbers():
    model = dit(dropout=0.3).train()
    traced = surgery.trace(dit(dropout=0.3), dit_inputs(2, 8))
    traced.model.load_state_dict(model.state_dict())
    twin = traced.module().train()
    call = dit_inputs(4, 8)
    torch.manual_seed(1)
    expected = model(**call)
    torch.manual_seed(1)
    assert_same(expected, twin(**call))


def test_bfloat16_after_tracing_in_float32():
    model = dit()
    traced = surgery.trace(model, dit_inputs(1, 8)).module()
    model, traced = model.to(torch.bfloat16), traced.to(torch.bfloat16)
    call = dit_inputs(2, 8)
    call["hidden_states"] = call["hidden_states"].bfloat16()
    assert_same(model(**call), traced(**call))


def test_the_meta_device_needs_no_weights():
    with torch.device("meta"):
        model = dit(num_layers=28, num_attention_heads=16, attention_head_dim=72, sample_size=32)
    graph = surgery.trace(model, dit_inputs(1, 32, device="meta"))
    attention = graph.operators("self_attention")
    assert [o.layer for o in attention] == list(range(28))
    assert attention[0].in_shape == (1, 256, 1152)
    # the paper's count: 8 N D^2 for the projections, 4 N^2 D + 3 H N^2 for the mixing
    assert attention[0].flops == 8 * 256 * 1152**2 + 4 * 256**2 * 1152 + 3 * 16 * 256**2


def test_identical_blocks_share_one_recording():
    graph = surgery.trace(dit(), dit_inputs(1, 8))
    first, second = (graph.scopes[f"transformer_blocks.{i}"].recordings[0] for i in (1, 2))
    assert first is second


def test_sizes_that_the_model_refuses_are_named():
    traced = surgery.trace(dit(), dit_inputs(1, 8)).module()
    call = dit_inputs(1, 8)
    call["hidden_states"] = torch.randn(1, 3, 8, 8)
    with pytest.raises(GuardError, match=r"hidden_states is \(1, 3, 8, 8\) float32, traced with \(1, 4, 8, 8\)"):
        traced(**call)


def test_an_unknown_input_is_named():
    with pytest.raises(TraceError, match="takes no class_label; it takes hidden_states, timestep, class_labels"):
        surgery.trace(dit(), {"class_label": torch.zeros(1)})


@pytest.mark.parametrize("given", [(torch.zeros(1),), [torch.zeros(1)], torch.zeros(1), None])
def test_inputs_without_names_are_refused(given: object):
    with pytest.raises(TraceError, match=r"by name, e.g. {'hidden_states': ...}, got a \w+$"):
        surgery.trace(dit(), given)  # type: ignore[arg-type]


class ReadsValues(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_control_flow_on_values_is_refused():
    with pytest.raises(TraceError, match=r"test_exact.py:\d+: a branch depends on floating-point values"):
        surgery.trace(ReadsValues(), {"x": torch.ones(2)})
