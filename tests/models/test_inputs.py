"""Inputs are made up for every class that diffusers exports, but for a few whose inputs take more than shapes."""

from __future__ import annotations

import diffusers.models.transformers as transformers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

import surgery
from surgery.errors import TraceError
from surgery.models.inputs import example_inputs, probe, search
from surgery.models.inputs.probe import Probe, unarithmetic
from surgery.models.inputs.widths import solve
from surgery.recording.skeleton import skeleton
from tests.classes import all_cases
from tests.nightly import examples, thinned

CASES = {case.name: case for case in all_cases()}
CANNOT = {
    "Cosmos3OmniTransformer": "one packed sequence, described by indices of each modality in it",
    "CosmosTransformer3DModel-transfer": "text and image contexts, as a pair",
    "RFD4ProteinaTransformer": "atoms of a protein and what is known of them",
    "RFD4ProteinaTransformer-chiral": "atoms of a protein and what is known of them",
    "WanAnimate2Transformer3DModel": "a cache of keys and values, of a class of its own",
}


def on_meta(name: str) -> nn.Module:
    case = CASES[name]
    with torch.device("meta"):
        return getattr(transformers, case.class_name)(**case.init)


def tensors(inputs: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]


def without_values(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("meta") if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("name", thinned(sorted(set(CASES) - set(CANNOT)), 2))
def test_inputs_of_every_class_run(name):
    model = CASES[name].model()
    inputs = example_inputs(model)
    is_large = sum(tensor.numel() for tensor in tensors(inputs)) > 30_000
    with torch.no_grad():
        if is_large:
            with unarithmetic(), Probe():
                skeleton(model)(**pytree.tree_map_only(torch.Tensor, without_values, inputs))
        else:
            model(**inputs)


def test_nearly_all_classes_are_covered():
    assert len({CASES[name].class_name for name in set(CASES) - set(CANNOT)}) >= 73


@pytest.mark.parametrize("name", sorted(CANNOT))
def test_other_classes_say_so(name, monkeypatch):
    monkeypatch.setattr(search, "TRIALS", 120)  # which is more than nearly all others take
    class_name = CASES[name].class_name
    with pytest.raises(TraceError, match=rf"^{class_name}: cannot make up .*surgery\.trace\(model, inputs\)$"):
        example_inputs(on_meta(name))


@examples(10)
@given(
    name=st.sampled_from(["FluxTransformer2DModel", "WanTransformer3DModel", "SD3Transformer2DModel"]),
    batch=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_inputs_have_the_batch_the_device_and_the_dtype_asked_for(name, batch, dtype):
    inputs = example_inputs(on_meta(name).to(dtype), batch)
    assert all(tensor.is_meta for tensor in tensors(inputs))
    assert {tensor.dtype for tensor in tensors(inputs) if tensor.is_floating_point()} == {dtype}
    batched = {name: value for name, value in inputs.items() if not name.endswith("_ids")}
    assert {len(value) for value in batched.values()} == {batch}


def test_guidance_is_given_to_models_that_embed_it():
    plain, guided = (example_inputs(on_meta(f"FluxTransformer2DModel{v}")) for v in ("", "-controlled"))
    assert set(guided) - set(plain) == {"guidance"}
    assert plain["hidden_states"].shape == (1, 1024, 12)
    assert plain["img_ids"].shape == (1024, 3)


def test_latents_have_the_sample_size_of_the_model():
    inputs = example_inputs(CASES["PixArtTransformer2DModel"].model(), batch=3)
    assert inputs.pop("added_cond_kwargs") == {"resolution": None, "aspect_ratio": None}
    assert {name: (tuple(value.shape), value.dtype) for name, value in inputs.items()} == {
        "hidden_states": ((3, 4, 8, 8), torch.float32),
        "encoder_hidden_states": ((3, 77, 20), torch.float32),
        "timestep": ((3,), torch.int64),
    }


def test_the_seed_decides_and_the_search_draws_nothing():
    model = CASES["DiTTransformer2DModel"].model().train()  # which drops labels at random
    torch.manual_seed(3)
    first, after = example_inputs(model), torch.rand(())
    torch.manual_seed(3)
    expected = torch.randn(1, 4, 8, 8)
    assert torch.equal(first["hidden_states"], expected)
    assert torch.equal(after, torch.rand(()))


def test_a_traced_model_gets_the_inputs_of_its_class():
    model = CASES["SD3Transformer2DModel"].model()
    inputs = example_inputs(model)
    again = example_inputs(surgery.trace(model, inputs).module())
    assert {name: value.shape for name, value in again.items()} == {name: v.shape for name, v in inputs.items()}


class Strange(nn.Module):
    """Runs on nothing that a name tells."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, hidden_states: torch.Tensor, cipher: object) -> torch.Tensor:
        if cipher != "open sesame":
            raise ValueError("closed")
        return self.layer(hidden_states)


def test_an_input_of_an_unknown_name_is_named():
    with pytest.raises(TraceError, match=r"^Strange: cannot make up cipher; give the inputs yourself") as error:
        example_inputs(Strange())
    assert "\n" not in str(error.value)


class Endless(Strange):
    """Never returns."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        while True:
            hidden_states = hidden_states + 1


def test_a_forward_that_does_not_return_is_given_up(monkeypatch):
    monkeypatch.setattr(probe, "LONGEST", 50)
    with pytest.raises(TraceError, match="Endless: cannot make up hidden_states"):
        example_inputs(Endless())


@given(width=st.integers(1, 300), times=st.integers(1, 16), rest=st.integers(0, 8))
def test_a_width_is_told_by_what_a_layer_expects(width, times, rest):
    mark = 1009
    assert solve([(times * mark + rest, times * width + rest)], {"x": mark}) in ({"x": width}, {"x": width + rest})


def test_two_inputs_side_by_side_share_a_width():
    assert solve([(1009 + 1117, 15)], {"x": 1009, "y": 1117}) == {"x": 7, "y": 8}
    assert solve([(30, 15)], {"x": 1009, "y": 1117}) == {}
