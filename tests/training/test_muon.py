"""Steps of Muon are nearly orthogonal, those of torch's own, and the same whatever else is trained."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from surgery.training.muon import Muon, orthogonal
from tests.nightly import examples

sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
seeds = st.integers(0, 99)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stepped(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], seed: int) -> list[Tensor]:
    """How far three steps, at gradients from the seed, move the parameters."""
    before = [p.detach().clone() for p in parameters]
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for step in range(3):
        for i, parameter in enumerate(parameters):
            parameter.grad = random(100 * seed + 10 * i + step, *parameter.shape)
        optimizer.step()
    return [p.detach() - b for p, b in zip(parameters, before, strict=True)]


def zeros(shapes: list[tuple[int, int]]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(shape)) for shape in shapes]


@examples(40)
@given(st.integers(1, 4), sizes, seeds)
def test_singular_values_come_near_1_and_their_vectors_stay(count, shape, seed):
    u, _, v = torch.linalg.svd(random(seed, count, *shape), full_matrices=False)
    values = 10 ** (2 * torch.rand(count, min(shape), generator=torch.Generator().manual_seed(seed)))
    turned = u.mT @ orthogonal(u @ torch.diag_embed(values) @ v) @ v.mT
    found = turned.diagonal(dim1=1, dim2=2)
    assert found.min() > 0.3
    assert found.max() < 1.3
    torch.testing.assert_close(turned, torch.diag_embed(found), atol=1e-4, rtol=0)


@examples(25)
@given(st.lists(sizes, min_size=1, max_size=4), seeds)
def test_steps_are_those_of_torch_to_the_precision_of_bfloat16(shapes, seed):
    own, theirs = zeros(shapes), zeros(shapes)
    reference = torch.optim.Muon(theirs, lr=0.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for a, b in zip(stepped(Muon(own), own, seed), stepped(reference, theirs, seed), strict=True):
        assert (a - b).norm() < 0.1 * b.norm()


@examples(25)
@given(st.lists(st.sampled_from([(3, 5), (5, 3), (4, 4)]), min_size=2, max_size=6), seeds)
def test_a_step_does_not_depend_on_what_else_is_trained(shapes, seed):
    alone, together = zeros(shapes[:1]), zeros(shapes)
    torch.testing.assert_close(
        stepped(Muon(together), together, seed)[0], stepped(Muon(alone), alone, seed)[0], rtol=1e-3, atol=1e-5
    )


def test_weights_decay_and_what_has_no_gradient_stays():
    decayed, still = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    decayed.grad = torch.zeros(2, 2)
    optimizer = Muon([decayed, still], weight_decay=0.5)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert torch.allclose(decayed, torch.full((2, 2), 0.95))
    assert torch.equal(still, torch.ones(2, 2))
