"""A traced or edited model is still an instance of its class, with the same names and weights."""

from __future__ import annotations

import pytest
import torch

from surgery.rewriting.commit import record_of
from tests.compat.models import FAMILIES, MAKERS, every_pair, inputs, original, student, traced
from tests.tracing.test_exact import assert_same


@every_pair
def test_a_traced_model_is_the_same_model(name, maker):
    model = MAKERS[maker](name)
    twin = traced(model, name)
    assert isinstance(twin, type(model))
    for (path, ours), (other, theirs) in zip(model.named_modules(), twin.named_modules(), strict=True):
        assert path == other
        assert isinstance(theirs, type(ours))
    assert_same(dict(model.state_dict()), dict(twin.state_dict()))
    assert twin.config == model.config
    assert_same(model(**inputs(name)), twin(**inputs(name)))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_student_keeps_what_was_not_edited(name):
    model, edited = original(name), student(name)
    paths = [edit.path for edit in record_of(edited).edits]
    assert type(edited) is type(model)
    assert paths

    def untouched(module):
        weights = module.state_dict().items()
        return {key: value for key, value in weights if not key.startswith(tuple(paths))}

    assert_same(untouched(model), untouched(edited))
    assert not torch.equal(model(**inputs(name)).sample, edited(**inputs(name)).sample)
