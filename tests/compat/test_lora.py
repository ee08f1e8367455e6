"""LoRA adapters, put on and loaded after tracing."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from torch import nn

import surgery
from surgery.operators import FullAttention, HyenaX
from surgery.rewriting import indices
from surgery.rules import drop_blocks, fuse_projections, mlp_ratio, parallel_pairs, replace_attention
from tests.compat.models import every_pair, inputs, original, pair
from tests.compat.pipelines import pipeline
from tests.tracing.test_exact import assert_same

CONFIG = LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v", "proj_out"])
EDITS = [
    replace_attention(HyenaX(kernel=3)),
    replace_attention(FullAttention()),
    mlp_ratio(6),
    fuse_projections(),
    drop_blocks(layers=indices(1)),
    parallel_pairs(),
]
LOADABLE = ["sd3", "flux", "wan"]  # what diffusers has a LoRA loader for


def adapt(model: nn.Module) -> nn.Module:
    """Put a random adapter on `model`."""
    torch.manual_seed(3)
    return model.add_adapter(CONFIG) if hasattr(model, "add_adapter") else inject_adapter_in_model(CONFIG, model)


@every_pair
def test_an_adapter_put_on_after_tracing(name, maker):
    model, twin = pair(name, maker)
    before = twin(**inputs(name)).sample
    adapt(model), adapt(twin)
    assert_same(model(**inputs(name)), twin(**inputs(name)))
    assert not before.equal(twin(**inputs(name)).sample)
    for module in (model, twin):
        module(**inputs(name)).sample.square().sum().backward()
    assert_same([p.grad for p in model.parameters()], [p.grad for p in twin.parameters()])


@pytest.mark.parametrize("rule", EDITS, ids=["hyena", "full", "wider", "fused", "dropped", "parallel"])
def test_every_linear_layer_of_a_student_takes_an_adapter(rule):
    student = surgery.rewrite(original("dit"), [rule], inputs("dit"))
    layers = [path for path, module in student.named_modules() if isinstance(module, nn.Linear)]
    inject_adapter_in_model(LoraConfig(r=2, init_lora_weights=False, target_modules=layers), student)
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    student(**inputs("dit")).sample.square().sum().backward()
    adapters = {name: p.grad for name, p in student.named_parameters() if ".lora_" in name}
    assert len(adapters) == 2 * len(layers)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in adapters.values())


@pytest.mark.parametrize("name", ["dit", "pixart"])
def test_the_wrapper_of_peft(name):
    model, twin = pair(name, "original")
    torch.manual_seed(3)
    wrapped = get_peft_model(model, CONFIG)
    torch.manual_seed(3)
    assert_same(wrapped(**inputs(name)), get_peft_model(twin, CONFIG)(**inputs(name)))


@pytest.fixture
def weights(request, tmp_path):
    """A folder with LoRA weights for the model, as its pipeline writes them."""
    name = request.param
    model = original(name)
    adapt(model)
    pipe = pipeline(name, model)
    pipe.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(model))
    return name, tmp_path


@pytest.mark.parametrize("weights", LOADABLE, indirect=True)
def test_loading_by_the_model_and_its_switches(weights):
    name, folder = weights
    model, twin = pair(name, "original")
    for change in (
        lambda m: m.load_lora_adapter(folder, weight_name="pytorch_lora_weights.safetensors"),
        lambda m: m.disable_adapters(),
        lambda m: m.enable_adapters(),
        lambda m: m.set_adapters("default_0", 0.5),
        lambda m: m.fuse_lora(),
        lambda m: m.unfuse_lora(),
        lambda m: m.unload_lora(),
    ):
        change(model), change(twin)
        assert_same(model(**inputs(name)), twin(**inputs(name)))


@pytest.mark.parametrize("weights", LOADABLE, indirect=True)
def test_loading_by_the_pipeline(weights):
    name, folder = weights
    model, twin = pair(name, "original")
    for module in (model, twin):
        pipeline(name, module).load_lora_weights(folder)
    assert_same(model(**inputs(name)), twin(**inputs(name)))
