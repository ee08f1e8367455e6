"""What every sequence mixer keeps: the call of a diffusers block, and a way to and from plain data."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from safetensors.torch import load, save
from torch.utils.checkpoint import checkpoint

from surgery.errors import ArtifactError, RewriteError
from surgery.operators import (
    AnyOperator,
    FullAttention,
    GroupedQueryAttention,
    HyenaSE,
    HyenaX,
    HyenaY,
    LinearAttention,
    MixerConfig,
    MixerDims,
    NeighbourhoodAttention,
    SlidingWindow,
    operator_from_data,
)
from tests.nightly import examples
from tests.operators.mixers import DIMS, EVERY
from tests.operators.parity import all_dims, build

configs = st.one_of(
    st.just(FullAttention()),
    st.builds(HyenaX, kernel=st.integers(1, 5), causal=st.booleans()),
    st.builds(SlidingWindow, window=st.integers(0, 5), causal=st.booleans()),
    st.builds(HyenaSE, kernel=st.integers(1, 3), axes=st.just(2), grid=st.sampled_from([(2, 3), (6, 1)])),
    st.builds(HyenaY, kernel=st.integers(1, 3), axes=st.just(3), grid=st.just((1, 2, 3))),
    st.builds(
        NeighbourhoodAttention, window=st.sampled_from([1, 3, 5]), grid=st.sampled_from([(2, 3), (6, 1), (1, 2, 3)])
    ),
    st.builds(
        LinearAttention,
        features=st.sampled_from(["relu", "learned"]),
        depthwise=st.sampled_from([1, 3, 4]),
        axes=st.just(2),
        grid=st.just((2, 3)),
    ),
    st.builds(LinearAttention, depthwise=st.one_of(st.none(), st.integers(1, 3))),
    st.builds(GroupedQueryAttention, groups=st.just(1)),
)


@pytest.mark.parametrize("config", EVERY)
def test_is_called_as_diffusers_calls_attention(config: MixerConfig) -> None:
    mixer, x = build(config, DIMS, 0), torch.randn(2, 9, 12).double()
    expected = mixer.mix(x, grid=(3, 3))
    assert torch.equal(mixer(x, encoder_hidden_states=None, attention_mask=None, temb=None), expected)
    assert torch.equal(mixer(x, None, None), expected)
    assert torch.equal(mixer(hidden_states=x, image_rotary_emb=None), expected)


@pytest.mark.parametrize("config", EVERY)
@pytest.mark.parametrize("name", ["encoder_hidden_states", "attention_mask", "image_rotary_emb", "temb"])
def test_refuses_what_it_cannot_use(config: MixerConfig, name: str) -> None:
    x = torch.randn(2, 9, 12).double()
    with pytest.raises(RewriteError, match=name):
        build(config, DIMS, 0)(x, **{name: x})


@pytest.mark.parametrize("config", EVERY)
@pytest.mark.parametrize("shape", [(2, 5, 11), (2, 12), (2, 12, 4, 4)])
def test_refuses_other_shapes(config: MixerConfig, shape: tuple[int, ...]) -> None:
    with pytest.raises(RewriteError, match=r"\(batch, tokens, 12\)"):
        build(config, DIMS, 0)(torch.randn(shape).double())


@examples(15)
@given(configs, all_dims)
def test_goes_to_plain_data_and_back(config: MixerConfig, dims: MixerDims) -> None:
    mixer, x = build(config, dims, 0), torch.randn(2, 6, dims.dim).double()
    text = json.dumps({"operator": config.model_dump(mode="json"), "dims": dims.model_dump(mode="json")})
    data = json.loads(text)
    loaded_config = operator_from_data(data["operator"])
    assert loaded_config == config
    loaded = loaded_config.build(MixerDims.model_validate(data["dims"])).double()
    assert not torch.equal(loaded(x), mixer(x))
    loaded.load_state_dict(load(save(mixer.state_dict())))
    assert torch.equal(loaded(x), mixer(x))


def test_a_field_of_any_operator_reads_back_the_right_class() -> None:
    class Holder(BaseModel):
        operator: AnyOperator

    for config in EVERY:
        assert Holder.model_validate_json(Holder(operator=config).model_dump_json()).operator == config


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"kind": "mamba_9"}, "mamba_9"),
        ({}, "kind"),
        ({"kind": "hyena_x", "kernal": 4}, "kernal"),
        ({"kind": "sliding_window", "window": "wide"}, "window"),
        ({"kind": "neighbourhood_attention", "window": 4}, "odd"),
        ({"kind": "linear_attention", "axes": 2}, "depthwise"),
    ],
)
def test_damaged_data_is_refused_by_name(data: dict[str, object], named: str) -> None:
    with pytest.raises(ArtifactError, match=named):
        operator_from_data(data)


@pytest.mark.parametrize("config", EVERY)
def test_config_is_frozen(config: MixerConfig) -> None:
    with pytest.raises(ValidationError):
        config.kind = "other"


@pytest.mark.parametrize("config", EVERY)
def test_a_copy_is_equal_and_shares_nothing(config: MixerConfig) -> None:
    mixer, x = build(config, DIMS, 0), torch.randn(2, 9, 12).double()
    twin = copy.deepcopy(mixer)
    before = mixer(x)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert torch.equal(mixer(x), before)
    assert not torch.equal(twin(x), before)


@pytest.mark.parametrize("config", EVERY)
def test_gradient_checkpointing_changes_nothing(config: MixerConfig) -> None:
    mixer, x = build(config, DIMS, 0), torch.randn(2, 9, 12).double().requires_grad_()
    plain = torch.autograd.grad(mixer(x).square().sum(), [x, *mixer.parameters()])
    again = torch.autograd.grad(checkpoint(mixer, x, use_reentrant=False).square().sum(), [x, *mixer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize("config", EVERY)
def test_is_built_and_run_without_weights(config: MixerConfig) -> None:
    with torch.device("meta"):
        assert config.build(DIMS)(torch.empty(2, 81, 12)).shape == (2, 81, 12)
