"""Every transformer class of diffusers is traced exactly: at other sizes, in train mode, in bfloat16, with gradients."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers.models.transformers as transformers
import pytest
import torch
from torch import nn

import surgery
from tests.classes import Case, all_cases
from tests.classes.check import forward, gradients, in_bfloat16, randomised, same_bits
from tests.nightly import thinned

CASES = all_cases()
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
some_cases = pytest.mark.parametrize("case", thinned(CASES, 3), ids=lambda case: case.name)


def twins(case: Case, has_run: bool = False) -> tuple[nn.Module, nn.Module]:
    """A model and its trace. One that has run may hold caches by then."""
    model = randomised(case.model())
    if has_run:
        forward(model, case, case.sizes[0], seed=2)  # its caches would be of no use for gradients in inference mode
    return model, surgery.trace(model, case.example()).module()


def test_every_exported_class_has_a_case():
    exported = {n for n, v in vars(transformers).items() if isinstance(v, type) and issubclass(v, nn.Module)}
    assert exported == {case.class_name for case in CASES}


@every_case
def test_bits_at_every_size_and_in_both_output_types(case):
    model, traced = twins(case)
    choices: list[dict[str, Any]] = [{}]
    if "return_dict" in inspect.signature(type(model).forward).parameters:
        choices = [{"return_dict": True}, {"return_dict": False}]
    for seed, sizes in enumerate(case.sizes, 1):
        for choice in choices if seed == 1 else choices[:1]:
            expected = forward(model, case, sizes, seed, **choice)
            assert same_bits(expected, forward(traced, case, sizes, seed, **choice)), f"differs at {sizes} {choice}"


@some_cases
def test_gradients_in_train_mode(case):
    model, traced = twins(case, has_run=True)
    model.train()
    traced.train()
    try:
        expected = gradients(model, case, case.sizes[1])
    except NotImplementedError as error:
        pytest.skip(f"the class itself has no gradients here: {error}")
    assert any(g is not None and g.abs().sum() > 0 for g in expected)
    assert same_bits(expected, gradients(traced, case, case.sizes[1]))


@some_cases
def test_bits_under_autocast_and_in_bfloat16(case):
    model, traced = twins(case)
    with torch.autocast("cpu", torch.bfloat16):
        try:
            expected = forward(model, case, case.sizes[1])
        except RuntimeError:
            pass  # the class itself does not run under autocast
        else:
            assert same_bits(expected, forward(traced, case, case.sizes[1]))
    model.to(torch.bfloat16)
    traced.to(torch.bfloat16)
    inputs = in_bfloat16(case.example(case.sizes[1], 2))
    with torch.no_grad():
        try:
            expected = model(**inputs)
        except (RuntimeError, ValueError) as error:
            pytest.skip(f"the class itself does not run in bfloat16: {error}")
        assert same_bits(expected, traced(**in_bfloat16(case.example(case.sizes[1], 2))))
