"""Random modules, traced at one size, do what the originals do at every size, in both modes, with gradients."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

import surgery
from tests.classes.check import same_bits
from tests.nightly import examples
from tests.tracing.programs import build, inputs, programs, sizes

calls = st.lists(st.tuples(sizes, st.booleans(), st.sampled_from([1.5, 0.25])), min_size=1, max_size=5)


@examples(60)
@given(programs, sizes, calls)
def test_outputs_gradients_and_buffers(steps, example, calls):
    model = build(steps)
    traced = surgery.trace(build(steps), inputs(example, 0)).module()
    for seed, (size, training, gain) in enumerate(calls):
        outcomes = []
        for module in (model, traced):
            module.train(training).zero_grad()
            torch.manual_seed(seed)
            call = inputs(size, seed) | {"gain": gain, "tag": str(seed % 2)}
            call["x"].requires_grad_()
            out = module(**call)
            out["x"].square().sum().backward()
            outcomes.append((out, call["x"].grad, [p.grad for p in module.parameters()], module.state_dict()))
        assert same_bits(*outcomes), (steps, example, size, training)


@examples(50)
@given(programs, sizes)
def test_tracing_changes_nothing(steps, example):
    model = build(steps)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    call = inputs(example, 0)
    copies = {name: tensor.clone() for name, tensor in call.items()}
    surgery.trace(model, call)
    assert same_bits(before, dict(model.state_dict()))
    assert same_bits(copies, call)
