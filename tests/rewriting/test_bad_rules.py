"""A rule that is wrong gets one line that says what, where and what to do, before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import nn

import surgery
from surgery.errors import ArtifactError, ConfigError, MatchError, RewriteError
from surgery.operators import MLP, HyenaX, JoinerDims, MixerDims
from surgery.rewriting import (
    Call,
    Copy,
    New,
    Pattern,
    Replacement,
    Resizing,
    Rewiring,
    Rule,
    Site,
    block,
    chain,
    consecutive,
    fork,
    indices,
    node,
)
from surgery.rewriting.pattern import GraphPattern
from surgery.rules import (
    alternate,
    drop_blocks,
    duplicate_blocks,
    mlp_ratio,
    parallel_pairs,
    replace_attention,
    share_blocks,
)
from surgery.testing import BlockSpec, ModelSpec, build, inputs
from tests.compat.models import inputs as family_inputs
from tests.compat.models import original
from tests.rewriting.gates import ArmedGate, Gate, whole_state
from tests.rewriting.operators import Narrow, Scale
from tests.tracing.test_exact import assert_same

MODEL = original("dit")
GRAPH = surgery.trace(MODEL, family_inputs("dit"))
TINY = ModelSpec(2, 4, True, (BlockSpec("separate", "module", "layer", False, False),) * 2, shared=False, branch=5)
MLP_0 = "UserRule at transformer_blocks.0.ff: "


class UserRule(Rule):
    """A rule whose replacement is a function, which is how the rules below are written in a line."""

    pattern: Pattern = node("mlp")
    gives: Any = None
    says: Any = None

    def check(self, site: Site) -> str | None:
        return self.says

    def replacement(self, site: Site) -> Any:
        return self.gives(site) if callable(self.gives) else self.gives


class Half(Gate):
    """Gives half of the features."""

    kind: Literal["half"] = "half"  # type: ignore[assignment]

    def build(self, dims: JoinerDims) -> nn.Module:
        return nn.Linear(dims.dim, dims.dim // 2)


def gated(**changes: Any) -> Rewiring:
    """A gate after `a`, with parts changed."""
    parts: dict[str, Any] = {
        "modules": {"gate": New(operator=Gate(), dims=JoinerDims(dim=16))},
        "calls": (Call(name="gated", module="gate", arguments={"x": "a"}),),
        "results": {"a": "gated"},
    }
    return Rewiring(**parts | changes)


def calls(*more: Call, **arguments: str) -> tuple[Call, ...]:
    return (Call(name="gated", module="gate", arguments=arguments), *more)


def dims(width: int = 16) -> MixerDims:
    return MixerDims(dim=width, heads=1, head_dim=width, qkv_bias=False, out_bias=False)


def swap(operator: Any) -> Replacement:
    return Replacement(operator=operator, dims=dims(), inherit="random")


def refused(words: str, apply: Callable[[], Any], kind: type[Exception] = RewriteError) -> None:
    """`apply` fails with one line that has `words`, and leaves the model as it was."""
    before = whole_state(MODEL, GRAPH)
    with pytest.raises(kind, match=re.escape(words)) as caught:
        apply()
    assert "\n" not in str(caught.value)
    assert_same(before, whole_state(MODEL, GRAPH))


def refused_rule(words: str, gives: Any, pattern: Any = node("mlp"), **fields: Any) -> None:  # noqa: B008
    """Already the plan is refused."""
    rule = UserRule(pattern=pattern, gives=gives, **fields)
    refused(words, lambda: surgery.plan(GRAPH, [rule]))


NEVER = {
    "a class that is not there": (
        node(module_class="Atention"),
        "UserRule: no module of class Atention to replace in DiTTransformer2DModel; "
        "it has no module of class Atention, did you mean 'Attention'?",
    ),
    "a function that is not there": (node(function="slu"), "it has no function slu, did you mean 'silu'?"),
    "a forward that is not there": (
        chain(node("mlp"), node(scope_class="TransformerBlock")),
        "it has no forward of class TransformerBlock, did you mean 'BasicTransformerBlock'?",
    ),
    "a role that is not there": (node("cross_attention"), "it has 2 self-attention, 2 mlp"),
    "a node of several": (chain(node("cross_attention"), node("mlp")), "nothing in it is a: cross-attention"),
    "contradictory": (node("mlp", module_class="Attention"), "no mlp of class Attention to replace"),
    "everything and its opposite": (~(node("mlp") | ~node("mlp")), "no anything but mlp or anything but mlp"),
    "not connected so": (
        chain(node("mlp"), node("self_attention")),
        "it has each of them, but not so connected; only views, casts and splits may stand in between",
    ),
    "not forked so": (fork(node("mlp"), node("mlp"), node("mlp")), "it has each of them, but not so connected"),
}


@pytest.mark.parametrize("case", NEVER)
def test_a_pattern_that_matches_nothing(case):
    pattern, words = NEVER[case]
    refused(words, lambda: surgery.plan(GRAPH, [UserRule(pattern=pattern)]), MatchError)


IMPOSSIBLE: dict[str, tuple[Callable[[], Any], str]] = {
    "a cycle": (
        lambda: GraphPattern(nodes={"a": node("mlp"), "b": node("norm")}, edges=(("a", "b"), ("b", "a"))),
        "can never match, as tensors cannot flow in a cycle (a -> b -> ...)",
    ),
    "module and function": (
        lambda: node(module_class="Linear", function="silu"),
        "no node calls both the module Linear and the function silu; give one of them, or chain two nodes",
    ),
    "an edge to nowhere": (
        lambda: GraphPattern(nodes={"a": node("mlp")}, edges=(("a", "b"),)),
        "no node is called 'b'; there are a",
    ),
    "not connected": (
        lambda: GraphPattern(nodes={"a": node("mlp"), "b": node("norm")}, edges=()),
        "its nodes are not connected by edges; match them by rules of their own",
    ),
    "a condition on nothing": (
        lambda: chain(node("mlp"), node("norm")).not_followed_by(node("mlp"), node="c"),
        "no node is called 'c'; there are a, b",
    ),
    "a graph as a node": (
        lambda: surgery.plan(GRAPH, [UserRule(pattern=chain(node("mlp") | chain(node("mlp"), node("norm")), node()))]),
        "is more than a single node; use it with | only",
    ),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_pattern_that_can_never_match_is_refused_when_it_is_written(case):
    make, words = IMPOSSIBLE[case]
    refused(words, make, MatchError)


def test_a_role_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(
        ConfigError, match=r"must be one of self_attention, cross_att.* did you mean 'self_attention'\?$"
    ):
        node("self_atention")


SHAPES = {
    "a swap": (
        swap(Narrow()),
        "transformer_blocks.0.ff: narrow gives (2, 4, 8) float32 where (2, 4, 16) float32 is needed; "
        "choose an operator that keeps the shape, or adapt the rule's check",
    ),
    "a call": (
        gated(
            modules={"gate": New(operator=Half(), dims=JoinerDims(dim=16))},
            calls=(Call(name="gated", module="gate", arguments={"input": "a"}),),
        ),
        "transformer_blocks.0.ff: gated for a gives (2, 4, 8) float32 where (2, 4, 16) float32 is needed",
    ),
    "a call on the wrong width": (
        gated(modules={"gate": New(operator=Half(), dims=JoinerDims(dim=32))}, calls=calls(input="a")),
        "transformer_blocks.0.ff: half fails on tokens 2 x 4 x 16: ",
    ),
    "an argument that packs nothing": (
        Rewiring(results={"a": "a(args)"}),
        "ff has no argument 'args'; it has hidden_states",
    ),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_replacement_of_another_shape(case):
    gives, words = SHAPES[case]
    refused_rule(words, gives)


NOT_DATA = {
    "nothing": (
        None,
        MLP_0 + "its replacement gives a NoneType; return a Replacement, a Resizing, a Rewiring or a Sharing",
    ),
    "a module": (nn.Identity(), "its replacement gives a "),
    "an operator that does not exist": (
        lambda site: swap({"kind": "hyena"}),
        MLP_0 + "Replacement.operator: unknown kind 'hyena', did you mean 'hyena_",
    ),
    "an operator without its fields": (lambda site: swap(MLP()), MLP_0 + "MLP: 'ratio' is missing"),
    "an operator at other dims": (swap(MLP(ratio=2)), "transformer_blocks.0.ff: mlp cannot be built: "),
    "a core of what has none": (
        gated(modules={"gate": New(operator=Gate(), dims=JoinerDims(dim=16), core=True)}),
        "gate cannot be built: gate mixes no tokens and has no core; choose a sequence mixer",
    ),
}


@pytest.mark.parametrize("case", NOT_DATA)
def test_a_replacement_that_is_none(case):
    gives, words = NOT_DATA[case]
    refused_rule(words, gives)


def test_a_check_that_gives_no_reason():
    refused_rule(MLP_0 + "its check gives True; return a reason in words, or None", gated(), says=True)


NO_RULES = {
    "a rule": (UserRule(), "this is not one: UserRule("),
    "none": (None, "this is not one: None"),
    "a number": (3, "this is not one: 3"),
    "text": ("drop_blocks", "this is not one: 'drop_blocks'"),
    "a dictionary": ({"first": UserRule()}, "this is not one: {'first'"),
    "an operator": (HyenaX(), "this is not one: HyenaX("),
    "a tensor": (torch.ones(()), "this is not one: tensor(1.)"),
    "a tensor of several lines": (torch.ones(2, 2), "this is not one: tensor([[1., 1.], [1., 1.]])"),
    "a class": (UserRule, "this is not one: <class"),
    "texts": (["drop_blocks"], "this is not one: 'drop_blocks'"),
    "none in it": ([UserRule(), None], "this is not one: None"),
    "an operator in it": ([HyenaX()], "this is not one: HyenaX("),
    "a list in it": ([[UserRule()]], "this item is a list itself, put a * before it: [UserRule("),
    "rules in turn in it": ([alternate(HyenaX())], "this item is a list itself, put a * before it: (ReplaceAttention("),
}


@pytest.mark.parametrize("case", NO_RULES)
@pytest.mark.parametrize("does", [surgery.plan, surgery.rewrite])
def test_what_is_no_list_of_rules(does, case):
    rules, words = NO_RULES[case]
    refused(f"rules is to be a list of rules, and {words}", lambda: does(GRAPH, rules))


def test_no_rules():
    refused("there are no rules to apply", lambda: surgery.plan(GRAPH, []), MatchError)


new_gate = New(operator=Gate(), dims=JoinerDims(dim=16))
WRONG_NAMES: dict[str, tuple[Callable[[Site], Any], str]] = {
    "a value": (
        lambda site: Rewiring(results={"a": "a(("}),
        "'a((' is no value; write b, b[1], b(hidden_states) or b.transpose(1, 2) for a node called b",
    ),
    "a node": (lambda site: gated(results={"b": "gated"}), MLP_0 + "no node is called 'b'; the pattern names a"),
    "a module": (lambda site: gated(modules={}), MLP_0 + "no node is called 'gate'; the pattern names a"),
    "a node to be like": (
        lambda site: gated(calls=(Call(name="gated", module="a", like="b"),), modules={}),
        MLP_0 + "no node is called 'b'; the pattern names a",
    ),
    "a node to keep": (lambda site: gated(keeps=("z",)), MLP_0 + "no node is called 'z'; the pattern names a"),
    "a source of weights": (
        lambda site: gated(modules={"gate": New(operator=Gate(), dims=JoinerDims(dim=16), sources=("q",))}),
        MLP_0 + "no node is called 'q'; the pattern names a",
    ),
    "what is copied": (lambda site: gated(modules={"gate": Copy(of="q")}), "no node is called 'q'"),
    "an argument": (
        lambda site: Rewiring(results={"a": "a(hidden)"}),
        "transformer_blocks.0.ff has no argument 'hidden'; it has hidden_states",
    ),
    "an argument of a call like another": (
        lambda site: gated(calls=(Call(name="gated", module="a", like="a", arguments={"x": "a"}),), modules={}),
        "transformer_blocks.0.ff takes no argument 'x'",
    ),
    "an argument of a new module": (lambda site: gated(calls=calls(y="a")), "unexpected keyword argument 'y'"),
    "an item": (
        lambda site: gated(calls=calls(x="a[7]")),
        "transformer_blocks.0.ff: its result has no item 7, as a[7] says; it is (2, 4, 16) float32",
    ),
    "a named item": (lambda site: gated(results={"a[x]": "gated"}), "its result has no item 'x', as a[x] says"),
    "an item of a call": (lambda site: gated(results={"a": "gated[9]"}), "has no item 9, as gated[9] says"),
    "axes": (
        lambda site: gated(calls=calls(x="a.transpose(1, 7)")),
        "transformer_blocks.0.ff: a.transpose(1, 7) needs a tensor with such axes; it is (2, 4, 16) float32",
    ),
    "a result with its axes swapped": (
        lambda site: gated(results={"a.transpose(0, 1)": "gated"}),
        MLP_0 + "a.transpose(0, 1) is transposed; name the result itself, and transpose what takes its place",
    ),
    "an argument of a call": (
        lambda site: gated(results={"a": "gated(x)"}),
        MLP_0 + "gated(x) is an argument of a new call; write the value that the call is given",
    ),
    "a result that is an argument": (
        lambda site: gated(results={"a(hidden_states)": "gated"}),
        "ff: a(hidden_states) is an argument; only results can be replaced",
    ),
    "a call that comes later": (
        lambda site: gated(calls=calls(Call(name="more", module="gate", arguments={"x": "a"}), x="more")),
        MLP_0 + "gated reads more, which is not made before it; move it up",
    ),
    "itself": (lambda site: gated(calls=calls(x="gated")), MLP_0 + "gated reads gated, which is not made before it"),
    "a module that nothing calls": (
        lambda site: gated(modules={"gate": new_gate, "idle": new_gate}),
        MLP_0 + "nothing calls the new module idle; add a Call of it, or leave it out",
    ),
    "a call that nothing reads": (
        lambda site: gated(calls=calls(Call(name="idle", module="gate", arguments={"x": "a"}), x="a")),
        MLP_0 + "nothing reads idle; name it in results, or leave the call out",
    ),
}


@pytest.mark.parametrize("case", WRONG_NAMES)
def test_a_rewiring_that_names_what_is_not_there(case):
    gives, words = WRONG_NAMES[case]
    refused_rule(words, gives)


def test_what_is_no_module_is_neither_called_again_nor_copied_nor_a_source():
    pattern = chain(node("mlp"), node(function="mul"))
    for gives, words in (
        (gated(modules={"gate": Copy(of="b")}, keeps=("b",)), "gate takes its weights from b, which is no module"),
        (
            gated(modules={"gate": New(operator=Gate(), dims=JoinerDims(dim=16), sources=("b",))}, keeps=("b",)),
            "gate takes its weights from b, which is no module; name another one",
        ),
        (
            gated(modules={}, calls=(Call(name="gated", module="b"),)),
            "gated calls b, which is no module; call a new one",
        ),
        (
            gated(calls=(Call(name="gated", module="gate", like="b"),)),
            "gated is called like b, which is no module; name its arguments one by one",
        ),
    ):
        refused_rule(MLP_0 + words, gives, pattern)
    refused_rule(
        "replaces a module, and this is none; let its check refuse such sites", swap(Scale()), node(function="mul")
    )


def test_names_that_collide_in_a_rewiring():
    call = calls(x="a")
    refused_rule(
        "the name 'gated' is given twice in a rewiring; every module and call has its own",
        lambda site: gated(modules={"gated": new_gate}, calls=call),
    )
    refused_rule(
        MLP_0 + "'a' is both a matched node and a new name; choose another name", gated(modules={"a": new_gate})
    )
    named = (Call(name="gated", module="x.y", arguments={"x": "a"}),)
    refused_rule(
        MLP_0 + "'x.y' cannot be a name; use letters, digits and underscores",
        gated(modules={"x.y": new_gate}, calls=named),
    )


def test_names_that_collide_in_the_model():
    model = original("dit")
    model.transformer_blocks[1].ff_gate = nn.Identity()
    words = r"at transformer_blocks\.1\.ff: the name transformer_blocks\.1\.ff_gate is taken; call the new module some"
    with pytest.raises(RewriteError, match=words):
        surgery.plan(model, [UserRule(gives=gated())], family_inputs("dit"))


def test_a_cycle_through_the_graph():
    pattern = chain(node("mlp"), node(function="add"))
    late = gated(
        modules={"gate": New(operator=Gate(), dims=JoinerDims(dim=8))},
        calls=calls(x="b"),
        keeps=("b",),
    )
    with pytest.raises(RewriteError, match=r"blocks\.0: the call of mlp_gate would need its own result: a cycle"):
        surgery.plan(build(TINY), [UserRule(pattern=pattern, gives=late)], inputs(TINY, (2, 4, 3)))


def test_a_result_inside_the_match_that_others_read():
    pattern = chain(node(function="add"), node("norm"))
    refused_rule("transformer_blocks.0:add is also read by ", Rewiring(results={"b": "a(1)"}), pattern)
    refused_rule("transformer_blocks.0.ff is also read by mul_2, which is not part of the match; "
                 "replace that result too, or keep a", Rewiring(results={}))  # fmt: skip


OVERLAPS = {
    "one module": (
        [UserRule(gives=swap(Scale()))] * 2,
        "UserRule and UserRule both edit transformer_blocks.0.ff (and 1",
    ),
    "a module in another": (
        [drop_blocks(layers=indices(1)), replace_attention(HyenaX())],
        "both edit transformer_blocks.1 and transformer_blocks.1.attn1, which overlap; narrow the layers of one of them",
    ),
    "one node": (
        [drop_blocks(layers=indices(1)), parallel_pairs()],
        "DropBlocks and ParallelPairs both edit transformer_blocks.1 and transformer_blocks.0 + transformer_blocks.1, "
        "which overlap",
    ),
    "a shared block": (
        [share_blocks(), replace_attention(HyenaX(), layers=indices(1))],
        "ShareBlocks and ReplaceAttention both edit transformer_blocks.0 + transformer_blocks.1 and "
        "transformer_blocks.1.attn1, which overlap",
    ),
    "a copy of what another one changes": (
        [duplicate_blocks(layers=indices(1)), replace_attention(HyenaX(), layers=indices(1))],
        "DuplicateBlocks copies transformer_blocks.1, which ReplaceAttention changes at transformer_blocks.1.attn1, "
        "so their order matters; apply them one after the other, by two calls of rewrite",
    ),
    "the same, in the other order": (
        [replace_attention(HyenaX()), duplicate_blocks(layers=indices(1))],
        "DuplicateBlocks copies transformer_blocks.1, which ReplaceAttention changes at transformer_blocks.1.attn1",
    ),
}


@pytest.mark.parametrize("case", OVERLAPS)
def test_rules_that_conflict(case):
    rules, words = OVERLAPS[case]
    refused(words, lambda: surgery.rewrite(GRAPH, rules))
    assert surgery.plan(GRAPH, rules).conflicts


def test_the_order_that_matters_may_be_chosen():
    example = family_inputs("dit")
    copy, hyena = duplicate_blocks(layers=indices(1)), replace_attention(HyenaX(), layers=indices(1))
    first = surgery.rewrite(surgery.rewrite(GRAPH, [copy]), [hyena], example)
    then = surgery.rewrite(surgery.rewrite(GRAPH, [hyena]), [copy], example)
    mixers = [[type(m).__name__ for m in each.modules()].count("HyenaXMixer") for each in (first, then)]
    assert mixers == [1, 2]


def test_a_layer_that_does_not_exist():
    refused("indices(5): no such layer: 5; the model's layers are 0 to 1",
            lambda: surgery.plan(GRAPH, [UserRule(pattern=block(), layers=indices(5))]), MatchError)  # fmt: skip


def test_patterns_without_nodes_or_with_a_name_given_twice():
    with pytest.raises(MatchError, match="the name 'a' is given twice"):
        chain(node("mlp"), a=node("norm"))
    for empty in (chain, lambda: consecutive(node("mlp"), 0)):
        with pytest.raises(MatchError, match="there are no nodes to match; give one at least"):
            empty()


def test_what_matched_cannot_be_resized_itself():
    new = New(operator=Gate(), dims=JoinerDims(dim=8))
    refused_rule(MLP_0 + "resizes what matched itself; return a Replacement", Resizing(modules={"a": new}))


@pytest.mark.parametrize("act", [surgery.plan, surgery.rewrite])
def test_models_and_inputs_that_are_none(act):
    rules = [duplicate_blocks(layers=indices(1))]
    for given in (None, torch.ones(1), [torch.ones(1)]):
        with pytest.raises(RewriteError, match="a model that is not traced needs inputs=, the keyword arguments"):
            act(original("dit"), rules, given)
    for model in (None, nn.Linear):
        with pytest.raises(RewriteError, match=r"the model is to be an nn\.Module or its graph, and this is neither"):
            act(model, rules, {})


def test_a_student_that_could_not_be_read_back_is_not_written(tmp_path):
    operator = ArmedGate(callback="", countdown=None)  # JSON leaves its countdown out
    student = surgery.rewrite(
        GRAPH, [UserRule(gives=gated(modules={"gate": New(operator=operator, dims=JoinerDims(dim=16))}))]
    )
    with pytest.raises(ArtifactError, match="ArmedGate could not be read back: ArmedGate: 'countdown' is missing"):
        surgery.save(student, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_an_infinite_ratio():
    with pytest.raises(ConfigError, match=r"MLPRatio\.ratio: must be a finite number"):
        mlp_ratio(float("inf"))
