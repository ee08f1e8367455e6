"""Roles are told from what is computed: in models of diffusers, and in random ones whatever their parts are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from diffusers.models.attention import AttentionModuleMixin, FeedForward
from diffusers.models.attention_processor import Attention
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import surgery
from surgery.analysis.roles import Operator
from surgery.operators import HyenaX
from surgery.rewriting import indices
from surgery.rules import replace_attention
from surgery.testing import BlockSpec, build, inputs
from surgery.testing.strategies import blocks, model_specs, sizes
from tests.classes import Case, all_cases
from tests.nightly import examples, thinned

CASES = {case.name: case for case in all_cases()}


def operators(case: Case) -> list[Operator]:
    return surgery.trace(case.model(), case.example()).operators()


def in_first_blocks(found: list[Operator]) -> list[tuple[str, str]]:
    """Role and path of what the first block of each list holds, residual sums by their role alone."""
    first = [o for o in found if ".0" in o.scope]
    return [(o.role, "" if o.role == "residual" else o.path) for o in first]


ADA = "transformer_blocks.0.norm1"
BLOCKS = {
    "DiTTransformer2DModel": [
        ("modulation", ADA),
        ("embedding", f"{ADA}.emb"),
        ("norm", f"{ADA}.norm"),
        ("self_attention", "transformer_blocks.0.attn1"),
        ("residual", ""),
        ("norm", "transformer_blocks.0.norm3"),
        ("mlp", "transformer_blocks.0.ff"),
        ("residual", ""),
    ],
    "PixArtTransformer2DModel": [
        ("modulation", "transformer_blocks.0:scale_shift_table"),
        ("norm", "transformer_blocks.0.norm1"),
        ("self_attention", "transformer_blocks.0.attn1"),
        ("residual", ""),
        ("cross_attention", "transformer_blocks.0.attn2"),
        ("residual", ""),
        ("norm", "transformer_blocks.0.norm2"),
        ("mlp", "transformer_blocks.0.ff"),
        ("residual", ""),
    ],
    "SD3Transformer2DModel": [
        ("modulation", ADA),
        ("norm", f"{ADA}.norm"),
        ("modulation", f"{ADA}_context"),
        ("norm", f"{ADA}_context.norm"),
        ("joint_attention", "transformer_blocks.0.attn"),
        ("residual", ""),
        ("norm", "transformer_blocks.0.norm2"),
        ("mlp", "transformer_blocks.0.ff"),
        ("residual", ""),
        ("residual", ""),
        ("norm", "transformer_blocks.0.norm2_context"),
        ("mlp", "transformer_blocks.0.ff_context"),
        ("residual", ""),
    ],
    "FluxTransformer2DModel": [
        ("modulation", ADA),
        ("norm", f"{ADA}.norm"),
        ("modulation", f"{ADA}_context"),
        ("norm", f"{ADA}_context.norm"),
        ("joint_attention", "transformer_blocks.0.attn"),
        *(("norm", f"transformer_blocks.0.attn.norm_{of}") for of in ("q", "k", "added_q", "added_k")),
        ("residual", ""),
        ("norm", "transformer_blocks.0.norm2"),
        ("mlp", "transformer_blocks.0.ff"),
        ("residual", ""),
        ("residual", ""),
        ("norm", "transformer_blocks.0.norm2_context"),
        ("mlp", "transformer_blocks.0.ff_context"),
        ("residual", ""),
        ("modulation", "single_transformer_blocks.0.norm"),
        ("norm", "single_transformer_blocks.0.norm.norm"),
        ("mlp", "single_transformer_blocks.0:proj_mlp"),
        ("self_attention", "single_transformer_blocks.0.attn"),
        ("norm", "single_transformer_blocks.0.attn.norm_q"),
        ("norm", "single_transformer_blocks.0.attn.norm_k"),
        ("residual", ""),
    ],
    "WanTransformer3DModel": [
        ("modulation", "blocks.0:scale_shift_table"),
        ("norm", "blocks.0.norm1"),
        ("self_attention", "blocks.0.attn1"),
        ("norm", "blocks.0.attn1.norm_q"),
        ("norm", "blocks.0.attn1.norm_k"),
        ("residual", ""),
        ("norm", "blocks.0.norm2"),
        ("cross_attention", "blocks.0.attn2"),
        ("norm", "blocks.0.attn2.norm_q"),
        ("norm", "blocks.0.attn2.norm_k"),
        ("residual", ""),
        ("norm", "blocks.0.norm3"),
        ("mlp", "blocks.0.ffn"),
        ("residual", ""),
    ],
}
EMBEDDINGS = {
    "DiTTransformer2DModel": ["pos_embed"],
    "PixArtTransformer2DModel": ["pos_embed", "caption_projection"],
    "SD3Transformer2DModel": ["pos_embed", "time_text_embed", "context_embedder"],
    "FluxTransformer2DModel": ["x_embedder", "time_text_embed", "context_embedder", "pos_embed"],
    "WanTransformer3DModel": ["rope", "patch_embedding", "condition_embedder"],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_parts_of_well_known_blocks(name):
    found = operators(CASES[name])
    assert in_first_blocks(found) == BLOCKS[name]
    assert [o.path for o in found if o.role == "embedding" and "." not in o.path] == EMBEDDINGS[name]


def test_the_mlp_of_a_single_stream_block_is_made_of_nodes():
    case = CASES["FluxTransformer2DModel"]
    model = case.model()
    mlp = next(o for o in surgery.trace(model, case.example()).operators("mlp") if o.nodes)
    block = model.get_submodule(mlp.scope)
    assert mlp.nodes[0] == "proj_mlp"
    assert mlp.nodes[-1] == "proj_out"
    assert mlp.params == sum(p.numel() for m in (block.proj_mlp, block.proj_out) for p in m.parameters())
    assert mlp.flops > 0


working = blocks.filter(lambda block: (block.attention, block.mlp) != ("none", "none"))


@examples(20)
@given(model_specs(working), sizes)
def test_random_blocks_have_the_parts_that_they_were_given(spec, size):
    found = surgery.trace(build(spec), inputs(spec, size)).operators()
    own = spec.blocks[:-1] if spec.shared and len(spec.blocks) > 1 else spec.blocks
    for number, block in enumerate(own):
        assert [(o.role, o.path) for o in found if o.layer == number] == list(expected(f"blocks.{number}", block))


def expected(path: str, block: BlockSpec) -> Iterator[tuple[str, str]]:
    sums = (f"{path}:add{n}" for n in (("_2", "_3") if block.modulated else ("", "_1")))
    if block.norm != "none":
        yield ("norm", f"{path}.norm")
    if block.modulated:
        yield ("modulation", f"{path}:silu")
    if block.attention != "none":
        yield ("cross_attention" if block.attention == "cross" else "self_attention", f"{path}.attn")
        yield ("residual", next(sums))
    if block.mlp != "none":
        yield ("mlp", f"{path}:up" if block.mlp == "inline" else f"{path}.mlp")
        yield ("residual", next(sums))


@given(model_specs(working), sizes, st.permutations(["attn", "mlp", "norm", "to_qkv", "to_q", "up", "down"]))
@examples(20)
def test_names_of_attributes_do_not_matter(spec, size, names):
    model = build(spec)
    before = surgery.trace(model, inputs(spec, size)).operators()
    _rename(model, {old: f"{new}_" for old, new in zip(sorted(names), names, strict=True)})
    after = surgery.trace(model, inputs(spec, size)).operators()
    assert [(o.role, o.params, o.flops) for o in after] == [(o.role, o.params, o.flops) for o in before]


def _rename(model: nn.Module, renamed: dict[str, str]) -> None:
    """Give the children of all modules other names; their forwards find them by the old ones all the same."""
    for module in list(model.modules()):
        cls = type(module)
        moved = {old: new for old, new in renamed.items() if old in module._modules}
        for old, new in moved.items():
            module._modules[new] = module._modules.pop(old)
        if moved:
            get = {old: property(lambda self, new=new: self._modules[new]) for old, new in moved.items()}
            module.__class__ = type(cls.__name__, (cls,), get)


class LinearAttention(nn.Module):
    """(q k^T) v without a softmax, the heads in one product, as in "Transformers are RNNs" (Katharopoulos 2020)."""

    def __init__(self, softmax: bool) -> None:
        super().__init__()
        self.softmax = softmax
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if self.softmax:
            return self.d((self.a(x) @ self.b(y).transpose(1, 2)).softmax(-1) @ self.c(y))
        return self.d(F.relu(self.a(x)) @ (F.relu(self.b(y)).transpose(1, 2) @ self.c(y)))


class Joined(nn.Module):
    def __init__(self, attention: nn.Module, cross: bool) -> None:
        super().__init__()
        self.attention, self.cross = attention, cross

    def forward(self, x: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return x + self.attention(x, text if self.cross else x)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
def test_attention_that_is_written_out(softmax, cross):
    model = Joined(LinearAttention(softmax), cross)
    graph = surgery.trace(model, {"x": torch.randn(2, 6, 8), "text": torch.randn(2, 3, 8)})
    role = "cross_attention" if cross else "self_attention"
    assert [(o.role, o.path) for o in graph.operators()] == [(role, "attention"), ("residual", ":add")]


def test_what_replaced_an_attention_is_a_sequence_mixer():
    case = CASES["DiTTransformer2DModel"]
    student = surgery.rewrite(case.model(), [replace_attention(HyenaX(), layers=indices(1))], case.example())
    found = [(o.role, o.path) for o in surgery.trace(student, case.example()).operators() if o.layer == 1]
    assert ("sequence_mixer", "transformer_blocks.1.attn1") in found
    assert "self_attention" not in dict(found)


@pytest.mark.parametrize("case", thinned(CASES.values(), 2), ids=lambda case: case.name)
def test_every_attention_and_feed_forward_module_of_diffusers_is_found(case):
    """The library's own classes are the oracle; the recogniser knows none of them."""
    model = case.model()
    graph = surgery.trace(model, case.example())
    roles = {o.path: o.role for o in graph.operators()}
    assert any(role.endswith("attention") for role in roles.values())
    assert "mlp" in roles.values()
    for path in graph.scopes:
        module = model.get_submodule(path)
        if isinstance(module, Attention | AttentionModuleMixin):
            assert roles[path].endswith("attention"), path
        elif isinstance(module, FeedForward):
            assert roles.get(path) == "mlp" or _role_around(path, roles) in ("embedding", "mlp"), path


def _role_around(path: str, roles: Mapping[str, str]) -> str | None:
    """The role of the operator that the module at `path` stands in."""
    names = path.split(".")
    return next((roles[p] for n in range(len(names), 0, -1) if (p := ".".join(names[:n])) in roles), None)
