"""Masks of cores: what is padding reaches nobody, whatever form the mask has, and other masks are refused."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surgery.errors import RewriteError
from surgery.operators import (
    TTT,
    FullAttention,
    GroupedQueryAttention,
    HyenaX,
    LinearAttention,
    MixerConfig,
    MixerCore,
    NeighbourhoodAttention,
    SlidingWindow,
)
from tests.operators.mixers import ANYWHERE, AT_THE_END, DIMS
from tests.operators.test_cores import heads
from tests.operators.twins import attend_linearly, neighbourhood_seen, window_seen

ON_PLACES: list[MixerConfig] = [
    NeighbourhoodAttention(window=3, axes=1),
    NeighbourhoodAttention(window=3, dilation=2, grid=(3, 3)),
    NeighbourhoodAttention(window=3, grid=(2, 3), text="last"),
    LinearAttention(depthwise=3, grid=(2, 3), text="last"),
    HyenaX(kernel=3, grid=(2, 3), text="first"),
    TTT(inner="gated", chunk=4, kernel=2),
]
"""Whose places, borders or chunks are others once tokens are removed."""
SCORES = (FullAttention, GroupedQueryAttention, SlidingWindow, NeighbourhoodAttention)
"""Those with a score for each pair, which take any mask."""
LENGTH = 9


def core_of(config: MixerConfig) -> MixerCore:
    torch.manual_seed(0)
    core = config.core(DIMS).double()
    for parameter in core.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return core


def drawn(seed: int, at_the_end: bool) -> Tensor:
    """Which of 9 tokens of two samples are seen: at least two."""
    made = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, LENGTH + 1, (2,), generator=made)
    order = [torch.arange(LENGTH) if at_the_end else torch.randperm(LENGTH, generator=made) for _ in range(2)]
    return torch.stack([each < count for each, count in zip(order, counts, strict=True)])


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 99))
@pytest.mark.parametrize("config", AT_THE_END, ids=repr)
def test_padding_is_as_if_it_were_not_there(config: MixerConfig, seed: int) -> None:
    core, (q, k, v) = core_of(config), heads(LENGTH, LENGTH, seed)
    seen_BN = drawn(seed, at_the_end=config not in ANYWHERE)
    with torch.no_grad():
        y = core(q, k, v, attn_mask=seen_BN[:, None, None])
        for sample, seen_N in enumerate(seen_BN):
            alone = core(*(x[[sample]][:, :, seen_N] for x in (q, k, v)))
            torch.testing.assert_close(y[[sample]][:, :, seen_N], alone)


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 99))
@pytest.mark.parametrize("config", [*AT_THE_END, *ON_PLACES], ids=repr)
def test_nothing_in_padding_reaches_anyone(config: MixerConfig, seed: int) -> None:
    core, (q, k, v) = core_of(config), heads(LENGTH, LENGTH, seed)
    seen_BN = drawn(seed, at_the_end=False)
    # The product of a weight 0 and NaN is NaN in PyTorch's own attention too.
    other = 1e4 if isinstance(config, FullAttention | GroupedQueryAttention) else torch.nan
    spoilt = (x.masked_fill(~seen_BN[:, None, :, None], other) for x in (q, k, v))
    with torch.no_grad():
        before, after = (core(*each, attn_mask=seen_BN[:, None, None]) for each in ((q, k, v), spoilt))
    kept = seen_BN[:, None, :, None].expand_as(before)
    torch.testing.assert_close(after[kept], before[kept])


def forms(seen_BN: Tensor) -> dict[str, Tensor]:
    """One mask of keys in the forms that models give it."""
    keys = seen_BN[:, None, None]
    least = torch.finfo(torch.float64).min
    pairs = keys & keys.mT
    first = torch.zeros_like(pairs)
    first[..., 0] = True
    return {
        "minus infinity": torch.zeros(keys.shape).double().masked_fill(~keys, -math.inf),
        "a large number": torch.zeros(keys.shape).double().masked_fill(~keys, least),
        "shifted": torch.full(keys.shape, 7.0).double().masked_fill(~keys, -1e4),
        "heads": keys.expand(2, 3, 1, -1),
        "all pairs": keys.expand(2, 1, LENGTH, -1),
        "pairs of tokens": pairs,
        "added to pairs": torch.zeros(pairs.shape).double().masked_fill(~pairs, least),
        "pairs, and the first": pairs | first,
    }


@pytest.mark.parametrize("config", [*AT_THE_END, *ON_PLACES], ids=repr)
def test_every_form_of_a_mask_is_the_same(config: MixerConfig) -> None:
    core, (q, k, v) = core_of(config), heads(LENGTH, LENGTH)
    seen_BN = drawn(3, at_the_end=False)
    seen_BN[:, 0] = True
    kept = seen_BN[:, None, :, None].expand_as(v)
    with torch.no_grad():
        expected = core(q, k, v, attn_mask=seen_BN[:, None, None])[kept]
        for name, mask in forms(seen_BN).items():
            torch.testing.assert_close(core(q, k, v, attn_mask=mask)[kept], expected, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("config", [c for c in AT_THE_END if not isinstance(c, SCORES)], ids=repr)
def test_another_mask_of_pairs_is_refused(config: MixerConfig) -> None:
    q, k, v = heads(LENGTH, LENGTH)
    causal = torch.ones(LENGTH, LENGTH).tril().bool()
    slopes = torch.arange(LENGTH).double()  # along the keys: all but the last have less weight than the largest
    text = torch.arange(LENGTH) < 3  # which does not see the image, and is weighed down for it
    read_out = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    read_out[:, -1], read_out[-1, :3] = (
        False,
        False,
    )  # a token that nobody sees, and that sees others than the rest does
    masks = {
        "causal": causal,
        "random": torch.rand(2, 1, LENGTH, LENGTH).double(),
        "slopes": (slopes / 2).expand(LENGTH, -1).masked_fill(~causal, -math.inf),
        "text": torch.where(text, -0.5, 0.0).double().masked_fill(text[:, None] & ~text, -math.inf),
        "read out": read_out,
    }
    for mask in masks.values():
        with pytest.raises(RewriteError, match="differs between queries"):
            core_of(config)(q, k, v, attn_mask=mask)


def scores_of(q: Tensor, k: Tensor, v: Tensor, seen: list[set[int]], mask: Tensor) -> Tensor:
    """Softmax attention of token i over seen[i], under a mask that is added."""
    outside = torch.tensor([[j not in js for j in range(len(seen))] for js in seen])
    scores = (q @ k.mT / math.sqrt(q.shape[3]) + mask).masked_fill(outside, -math.inf)
    return scores.softmax(3) @ v


SEEN = {
    SlidingWindow(window=2): [window_seen(i, LENGTH, 2, False) for i in range(LENGTH)],
    NeighbourhoodAttention(window=3, axes=1): neighbourhood_seen((LENGTH,), 3),
    NeighbourhoodAttention(window=3, grid=(3, 3), dilation=2): neighbourhood_seen((3, 3), 3, 2),
    NeighbourhoodAttention(window=3, grid=(2, 4), text="first"): [
        set(range(LENGTH)), *({0, *(j + 1 for j in js)} for js in neighbourhood_seen((2, 4), 3)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 1, 1, LENGTH), (2, 3, LENGTH, LENGTH), (LENGTH, LENGTH), (1, 3, 1, LENGTH)])
@pytest.mark.parametrize("config", SEEN, ids=repr)
def test_scores_take_what_is_added_to_them(config: MixerConfig, shape: tuple[int, ...]) -> None:
    q, k, v = (x.requires_grad_() for x in heads(LENGTH, LENGTH))
    mask = torch.randn(shape, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    found, expected = core_of(config)(q, k, v, attn_mask=mask), scores_of(q, k, v, SEEN[config], mask)
    torch.testing.assert_close(found, expected)
    grads = [torch.autograd.grad(each.square().sum(), (q, k, v, mask)) for each in (found, expected)]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("features", ["relu", "learned"])
def test_linear_attention_weighs_keys_by_what_is_added(features: str) -> None:
    core, (q, k, v) = core_of(LinearAttention(features=features)), heads(6, 8)
    mask = torch.randn(2, 1, 1, 8, generator=torch.Generator().manual_seed(1)).double()
    phi_k = core.phi_k(k) * mask.exp().mT
    torch.testing.assert_close(core(q, k, v, attn_mask=mask), attend_linearly(core.phi_q(q), phi_k, v))


def test_without_any_key_the_result_is_finite() -> None:
    q, k, v = heads(LENGTH, LENGTH)
    mask = torch.zeros(2, 1, 1, LENGTH, dtype=torch.bool)
    for config in (*AT_THE_END, *ON_PLACES):
        assert torch.isfinite(core_of(config)(q, k, v, attn_mask=mask)).all(), config


def test_a_mask_of_pairs_is_checked_in_compiled_code_too() -> None:
    core, (q, k, v) = core_of(LinearAttention()), heads(LENGTH, LENGTH)
    run = torch.compile(core, fullgraph=True, backend="aot_eager")
    seen_BN = drawn(3, at_the_end=True)
    pairs = forms(seen_BN)["pairs of tokens"]
    torch.testing.assert_close(run(q, k, v, attn_mask=pairs), core(q, k, v, attn_mask=pairs))
    with pytest.raises(RuntimeError, match="differs between queries"):
        run(q, k, v, attn_mask=torch.ones(2, 1, LENGTH, LENGTH).tril().bool())


def test_masks_need_no_values_to_plan_with() -> None:
    with torch.device("meta"):
        q, k, v = heads_on_meta()
        for config in (*AT_THE_END, *ON_PLACES):
            mask = torch.ones(2, 1, LENGTH, LENGTH, dtype=torch.bool)
            assert config.core(DIMS)(q, k, v, attn_mask=mask).shape == q.shape


def heads_on_meta() -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.empty(2, 3, LENGTH, 4) for _ in range(3))
    return q, k, v


def test_cross_attention_leaves_padding_out() -> None:
    q, k, v = heads(5, 8)
    seen_BM = torch.arange(8) < torch.tensor([[3], [8]])
    for config in (FullAttention(), GroupedQueryAttention(groups=3), LinearAttention(features="learned")):
        core = core_of(config)
        for mask in (seen_BM[:, None, None], seen_BM[:, None, None].expand(2, 1, 5, 8)):
            torch.testing.assert_close(core(q, k, v, attn_mask=mask)[:1], core(q[:1], k[:1, :, :3], v[:1, :, :3]))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen_BM[:, None, None])
    torch.testing.assert_close(core_of(FullAttention())(q, k, v, attn_mask=seen_BM[:, None, None]), expected)


@pytest.mark.parametrize("config", [LinearAttention(), LinearAttention(features="learned", centre=True)])
def test_as_many_queries_of_other_tokens_are_no_padding(config: MixerConfig) -> None:
    q, k, v = heads(LENGTH, LENGTH)
    seen = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool)
    seen[..., 5] = False
    seen[:, :, 5, 1:] = False  # token 5, which nobody sees, sees others than the rest do
    assert core_of(config)(q, k, v, attn_mask=seen).isfinite().all()
    across = config.core(DIMS.model_copy(update={"across": True})).double()
    with pytest.raises(RewriteError, match="differs between queries"):
        across(q, k, v, attn_mask=seen)
