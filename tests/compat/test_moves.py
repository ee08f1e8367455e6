"""dtypes, devices, and the hooks that keep weights elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import remove_hook_from_module
from diffusers.hooks import apply_group_offloading

from tests.compat.models import FAMILIES, every_pair, inputs, pair
from tests.tracing.test_exact import assert_same

every_model = pytest.mark.parametrize("name", FAMILIES)


def to_bfloat16(value: Any) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.bfloat16() if floating else value


@every_pair
def test_another_dtype_and_back(name, maker):
    model, twin = pair(name, maker)
    model.to(torch.bfloat16), twin.to(torch.bfloat16)
    call = {key: to_bfloat16(value) for key, value in inputs(name).items()}
    assert_same(model(**call), twin(**call))
    model.to(torch.float32), twin.to(torch.float32)
    assert_same(model(**inputs(name)), twin(**inputs(name)))


@every_model
def test_another_device_and_back(name):
    model, twin = pair(name, "original")
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    call = {key: value.to("meta") if isinstance(value, torch.Tensor) else value for key, value in inputs(name).items()}
    assert twin.to("meta")(**call).sample.shape == model(**inputs(name)).sample.shape
    twin.to_empty(device="cpu").load_state_dict(weights)
    for (_, there), (_, back) in zip(model.named_buffers(), twin.named_buffers(), strict=True):
        back.copy_(there)
    assert_same(model(**inputs(name)), twin(**inputs(name)))


@every_pair
def test_offloading_by_accelerate(name, maker, tmp_path):
    model, twin = pair(name, maker)
    cpu_offload(twin, execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in twin.parameters())
    assert_same(model(**inputs(name)), twin(**inputs(name)))
    assert_same(model(**inputs(name), return_dict=False), twin(**inputs(name), return_dict=False))
    remove_hook_from_module(twin, recurse=True)
    assert_same(model(**inputs(name)), twin(**inputs(name)))


def test_offloading_to_disk_and_by_device_map(tmp_path):
    model, twin = pair("pixart", "original")
    _, other = pair("pixart", "original")
    disk_offload(twin, str(tmp_path), execution_device=torch.device("cpu"))
    dispatched = dispatch_model(other, {"": "cpu"}, force_hooks=True)
    for module in (twin, dispatched):
        assert_same(model(**inputs("pixart")), module(**inputs("pixart")))
        assert_same(model(**inputs("pixart"), return_dict=False), module(**inputs("pixart"), return_dict=False))


@every_model
@pytest.mark.parametrize("level", [{"offload_type": "leaf_level"},
                                   {"offload_type": "block_level", "num_blocks_per_group": 1}])  # fmt: skip
def test_group_offloading(name, level):
    model, twin = pair(name, "original")
    apply_group_offloading(twin, torch.device("cpu"), torch.device("cpu"), **level)
    assert_same(model(**inputs(name)), twin(**inputs(name)))
    assert_same(model(**inputs(name), return_dict=False), twin(**inputs(name), return_dict=False))


@every_model
def test_layerwise_casting(name):
    model, twin = pair(name, "original")
    for module in (model, twin):
        module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert_same(model(**inputs(name)), twin(**inputs(name)))
