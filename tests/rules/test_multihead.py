"""`nn.MultiheadAttention`, by itself and in torch's own transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import surgery
from surgery.errors import MatchError, TraceError
from surgery.operators import FullAttention, GroupedQueryAttention, HyenaX, SlidingWindow
from surgery.rewriting import every
from surgery.rules import drop_blocks, mlp_ratio, parallel_pairs, replace_attention
from surgery.testing import check_rule

WIDTH, HEADS, TOKENS = 16, 2, 5


class Block(nn.Module):
    def __init__(self, call: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.norm, self.call = nn.LayerNorm(WIDTH), call or {}
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True, **options})

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        mixed, weights = self.attn(h, self.call.get("key", lambda h: h)(h), h, **self._masks(h))
        return x + mixed + (weights.mean() if "read" in self.call else 0)

    def _masks(self, h: Tensor) -> dict[str, Any]:
        mask = torch.zeros(h.shape[1], h.shape[1], dtype=torch.bool)
        return {"need_weights": "read" in self.call} | ({"attn_mask": mask} if "mask" in self.call else {})


class Torch(nn.Module):
    """An encoder whose results a decoder reads."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        encoder, decoder = (
            layer(WIDTH, HEADS, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
            for layer in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
        )
        self.encoder = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, 2)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        return self.decoder(x, self.encoder(text))


def blocks(**options: Any) -> nn.Sequential:
    return nn.Sequential(*(Block(**options) for _ in range(2))).eval()


EXAMPLE = {"input": torch.randn(2, TOKENS, WIDTH)}
BOTH = {"x": torch.randn(2, TOKENS, WIDTH), "text": torch.randn(2, 3, WIDTH)}
OPERATORS = [HyenaX(kernel=3), SlidingWindow(window=1), GroupedQueryAttention(groups=1)]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_full_attention_in_its_place_computes_the_same(bias: bool, batch_first: bool) -> None:
    model = blocks(bias=bias, batch_first=batch_first)
    example = EXAMPLE if batch_first else {"input": EXAMPLE["input"].transpose(0, 1)}
    planned = surgery.plan(model, [replace_attention(FullAttention(), inherit="exact")], example)
    assert [edit.path for edit in planned.edits] == ["0.attn", "1.attn"]
    for edit in planned.edits:
        assert edit.flops.before == edit.flops.after
        assert edit.params.before == edit.params.after
        by_hand = 2 * (4 * TOKENS**2 * WIDTH + 3 * HEADS * TOKENS**2)
        assert (edit.flops_mixing.before, edit.flops_mixing.after) == (by_hand, by_hand)
    student = surgery.rewrite(model, [replace_attention(FullAttention(), inherit="exact")], example)
    x = torch.randn(1, 7, WIDTH) if batch_first else torch.randn(7, 3, WIDTH)
    torch.testing.assert_close(student(x), model(x))


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.kind)
@pytest.mark.parametrize(("inherit", "batch_first"), [("projections", True), ("random", True), ("projections", False)])
def test_laws(operator: Any, inherit: Any, batch_first: bool) -> None:
    check_rule(replace_attention(operator, inherit=inherit), model=blocks(batch_first=batch_first), inputs=EXAMPLE)


def test_samples_stay_apart_where_tokens_come_first() -> None:
    x = torch.randn(TOKENS, 3, WIDTH)
    student = surgery.rewrite(blocks(batch_first=False), [replace_attention(SlidingWindow(window=1))], {"input": x})
    before, other = student(x), x.clone()
    other[:, 1] += 1
    changed = (student(other) - before).abs().amax((0, 2)) > 0
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    "rule",
    [
        replace_attention(HyenaX(), layers=every(2), inherit="random"),
        mlp_ratio(3),
        parallel_pairs(),
        drop_blocks(layers=every(2)),
    ],
    ids=lambda rule: rule.name,
)
def test_torch_s_own_transformers(norm_first: bool, rule: Any) -> None:
    model = Torch(norm_first).eval()
    check_rule(rule, model=model, inputs=BOTH)
    student = surgery.rewrite(model, [rule], BOTH)
    assert student.train()(**BOTH).isfinite().all()
    with torch.no_grad():  # where torch would take its fused kernels
        torch.testing.assert_close(student.eval()(**BOTH), student.train()(**BOTH))


def test_padded_tokens_that_torch_s_encoder_would_nest_are_refused() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, dropout=0.0, batch_first=True)
    x, padded = torch.randn(2, TOKENS, WIDTH), torch.arange(TOKENS).expand(2, -1) > 2
    given = {"src": x, "src_key_padding_mask": padded}
    with pytest.raises(TraceError, match="make it with enable_nested_tensor=False"):
        surgery.trace(nn.TransformerEncoder(layer, 2).eval(), given)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with torch.no_grad():
        torch.testing.assert_close(surgery.trace(model, given).module()(**given), model(**given))


@pytest.mark.parametrize(
    ("options", "role", "why"),
    [
        ({"call": {"mask": True}}, "self", "is called with attn_mask, which hyena_x does not take"),
        ({"call": {"key": lambda h: h * 2}}, "cross", "its queries, keys and values are not the same tensor"),
        ({"call": {"read": True}}, "self", "its attention weights are read by mean"),
        ({"add_bias_kv": True}, "self", "has bias_k, bias_v, which hyena_x would lose"),
        ({"add_zero_attn": True}, "self", "has add_zero_attn, which hyena_x would lose"),
    ],
)
def test_what_cannot_be_replaced_says_why(options: dict[str, Any], role: str, why: str) -> None:
    with pytest.raises(MatchError, match=why):
        surgery.plan(blocks(**options), [replace_attention(HyenaX(), role=f"{role}_attention")], EXAMPLE)
