"""diffusers' own saving, and pickles and copies."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from tests.compat.models import FAMILIES, every_pair, inputs, original, pair, traced
from tests.tracing.test_exact import assert_same


@pytest.mark.parametrize("name", FAMILIES)
def test_save_pretrained_and_back(name, tmp_path):
    model = original(name)
    twin = traced(model, name)
    model.save_pretrained(tmp_path / "model")
    twin.save_pretrained(tmp_path / "twin")
    for file in (tmp_path / "model").iterdir():
        assert file.read_bytes() == (tmp_path / "twin" / file.name).read_bytes()
    for model_class in (type(model), type(twin)):
        loaded = model_class.from_pretrained(tmp_path / "twin")
        assert type(loaded).__name__ == type(model).__name__
        assert_same(model(**inputs(name)), loaded(**inputs(name)))


@every_pair
def test_copies_and_pickles_run_and_extend_their_recordings(name, maker):
    model, twin = pair(name, maker)
    file = io.BytesIO()
    torch.save(twin, file)
    file.seek(0)
    for again in (copy.deepcopy(twin), torch.load(file, weights_only=False)):
        assert type(again) is type(twin)
        assert_same(model(**inputs(name)), again(**inputs(name)))
        assert_same(model(**inputs(name), return_dict=False), again(**inputs(name), return_dict=False))


def test_a_copy_has_its_own_weights():
    model, twin = pair("dit", "original")
    again = copy.deepcopy(twin)
    torch.nn.init.zeros_(again.proj_out_2.weight)
    assert_same(model(**inputs("dit")), twin(**inputs("dit")))
