"""`check_rule`, and that every law can fail: each is tried on an engine or a rule with one fault."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from pydantic import Field

import surgery
from surgery.artifact import saving
from surgery.operators import HyenaX, MixerDims, Policy
from surgery.rewriting import Change, Rule, block, chain, consecutive, fork, indices, node
from surgery.rewriting import commit as committing
from surgery.rewriting import make as making
from surgery.rewriting import match as matching
from surgery.rewriting.commit import Record
from surgery.rules import ReplaceAttention, drop_blocks, mlp_ratio, replace_attention
from surgery.testing import BlockSpec, Case, ModelSpec, build, check_rule, inputs, laws
from tests.analysis.test_roles import CASES
from tests.rewriting.operators import Same, Scale, ScaleMixer

HYENA = replace_attention(HyenaX(), layers=indices(0, 2), inherit="random")
LAST = consecutive(block(), 2).not_followed_by(block())
PAIRS = chain(node(), node())
BRANCHES = fork(node(), node("residual"), node("norm"))  # the norm comes first


def case_of(rule: Rule, shared: bool = False) -> Case:
    spec = ModelSpec(2, 2, True, (BlockSpec("separate", "module", "layer", False, False),) * 4, shared, 4)
    return Case(rule, build(spec), inputs(spec, (2, 3, 2)), inputs(spec, (1, 7, 2), seed=1))


def of_diffusers(rule: Rule) -> Case:
    case = CASES["DiTTransformer2DModel"]
    return Case(rule, case.model(), case.example())


def matches(pattern: Any) -> Callable[[Case], None]:
    return lambda case: laws.matches_are_those_of_brute_force(case.graph.view, pattern)


def names(pattern: Any) -> Callable[[Case], None]:
    return lambda case: laws.matches_do_not_depend_on_names(case.graph.view, pattern)


class Untrainable(Scale):
    kind: Literal["untrainable"] = "untrainable"  # type: ignore[assignment]

    def build(self, dims: MixerDims) -> ScaleMixer:
        return UntrainableMixer(self, dims)


class UntrainableMixer(ScaleMixer):
    def mix(self, x_BND: torch.Tensor, *, grid: tuple[int, ...] | None = None) -> torch.Tensor:
        return super().mix(x_BND).detach()


class Forgetful(ReplaceAttention):
    """Its JSON leaves out a part."""

    inherit: Policy = Field(default="projections", exclude=True)


FORGETFUL = Forgetful(pattern=node("self_attention"), operator=HyenaX(), inherit="random")


# -- faults of the engine ------------------------------------------------------------------------------------------


def no_fault(patch: pytest.MonkeyPatch, case: Case) -> None:
    """The rule itself is at fault."""


def conditions_are_ignored(patch: pytest.MonkeyPatch, case: Case) -> None:
    patch.setattr(matching._Search, "_is_present", lambda *_: False)


def all_nodes_are_twins(patch: pytest.MonkeyPatch, case: Case) -> None:
    patch.setattr(matching, "_are_twins", lambda pattern, a, b: a != b)


def neighbours_are_missed(patch: pytest.MonkeyPatch, case: Case) -> None:
    near = matching._Index.near
    patch.setattr(matching._Index, "near", lambda self, key, after: sorted(near(self, key, after))[:1])


def another_weight_changes(patch: pytest.MonkeyPatch, case: Case) -> None:
    make = committing.make_modules

    def faulty(student: Any, *args: Any) -> Any:
        student.blocks[1].attn.to_q.weight.data += 1
        return make(student, *args)

    patch.setattr(committing, "make_modules", faulty)


def the_teacher_is_not_copied(patch: pytest.MonkeyPatch, case: Case) -> None:
    patch.setattr(committing, "copy", SimpleNamespace(deepcopy=lambda model, *_: model))


def the_teacher_is_in_train_mode_meanwhile(patch: pytest.MonkeyPatch, case: Case) -> None:
    make = committing.make_modules

    def faulty(*args: Any) -> Any:
        case.model.train()
        made = make(*args)
        case.model.eval()
        return made

    patch.setattr(committing, "make_modules", faulty)


def one_replaced_module_is_lost(patch: pytest.MonkeyPatch, case: Case) -> None:
    def faulty(student: Any, record: Record) -> None:
        kept = dict(list(record.replaced.items())[1:])
        object.__setattr__(student, committing.RECORD, Record(record.commits, kept))

    patch.setattr(committing, "set_record", faulty)


def weights_depend_on_the_order(patch: pytest.MonkeyPatch, case: Case) -> None:
    drawn: list[str] = []
    patch.setattr(making, "_stream", lambda seed, path: len(drawn) or drawn.append(path) or 0)


def calls_are_counted_once(patch: pytest.MonkeyPatch, case: Case) -> None:
    patch.setattr(Change, "times", lambda self, runs: self)


def a_weight_is_lost_on_saving(patch: pytest.MonkeyPatch, case: Case) -> None:
    own = saving.saved_tensors
    patch.setattr(saving, "saved_tensors", lambda *models: {n: 0 * t for n, t in own(*models).items()})


# -- each law, a fault, and what the law says ----------------------------------------------------------------------

FAULTS = [
    (matches(LAST), conditions_are_ignored, lambda: case_of(HYENA), "2 of 3 matches are none"),
    (matches(BRANCHES), all_nodes_are_twins, lambda: case_of(HYENA), "matches are missed"),
    (matches(PAIRS), neighbours_are_missed, lambda: case_of(HYENA), "matches are missed"),
    (names(PAIRS), neighbours_are_missed, lambda: case_of(HYENA), "after all nodes are renamed"),
    (laws.data_survives_json, no_fault, lambda: case_of(FORGETFUL), "JSON gives Forgetful"),
    (laws.a_student_is_well_formed, no_fault, lambda: case_of(replace_attention(Untrainable())), "no gradient reaches"),
    (laws.the_plan_counts_what_the_student_has, calls_are_counted_once, lambda: case_of(mlp_ratio(3), shared=True),
     "FLOPs of the student"),
    (laws.nothing_else_changes, another_weight_changes, lambda: case_of(HYENA), r"blocks\.1\.attn\.to_q\.weight"),
    (laws.nothing_else_changes, the_teacher_is_not_copied, lambda: case_of(HYENA), "the teacher after a rewrite"),
    (laws.undo_gives_the_original_back, one_replaced_module_is_lost, lambda: case_of(HYENA), "the weights after undo"),
    (laws.disjoint_edits_commute, weights_depend_on_the_order, lambda: case_of(HYENA), "in reverse order"),
    (laws.a_failure_changes_nothing, the_teacher_is_in_train_mode_meanwhile, lambda: case_of(HYENA),
     "after a failure in"),
    (laws.a_saved_student_is_the_same, a_weight_is_lost_on_saving, lambda: of_diffusers(replace_attention(HyenaX())),
     "that was saved"),
    (laws.exact_rules_are_exact, no_fault, lambda: case_of(HYENA), "in float64: they differ by up to"),
    (laws.identity_rules_change_nothing, no_fault, lambda: case_of(HYENA), "of an identity rule's student"),
]  # fmt: skip


@pytest.mark.parametrize(("law", "fault", "make", "words"), FAULTS, ids=lambda each: getattr(each, "__name__", ""))
def test_a_law_holds_and_fails_with_a_fault(monkeypatch, law, fault, make, words):
    if fault is not no_fault:
        law(make())
    case = make()
    fault(monkeypatch, case)
    with pytest.raises(AssertionError, match=words):
        law(case)


# -- check_rule ----------------------------------------------------------------------------------------------------


def test_a_rule_that_obeys_all_laws():
    case = case_of(replace_attention(Same()))
    check_rule(case.rules[0], exact=True, identity=True, model=case.model, inputs=case.inputs)


def test_what_a_failure_says():
    with pytest.raises(AssertionError, match="no gradient reaches the new operator") as error:
        check_rule(replace_attention(Untrainable()))
    notes = "\n".join(error.value.__notes__)
    assert "the law that does not hold: a student is well formed" in notes
    assert "ModelSpec(heads=" in notes


def test_a_rule_for_other_models_needs_one():
    rule = replace_attention(HyenaX(), role="joint_attention")
    with pytest.raises(AssertionError, match=r"ReplaceAttention: applies to none of 40 random models; give model="):
        check_rule(rule)


def test_a_given_model_to_which_the_rule_does_not_apply():
    case = CASES["DiTTransformer2DModel"]
    with pytest.raises(surgery.errors.MatchError, match="no such layer: 9"):
        check_rule(drop_blocks(layers=indices(9)), model=case.model(), inputs=case.example())


def test_without_hypothesis_the_error_says_what_to_install():
    code = "import sys; sys.modules['hypothesis'] = None; import surgery.testing"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == (
        "ImportError: surgery.testing needs hypothesis; pip install 'surgery[testing]'"
    )


def test_nothing_else_needs_hypothesis():
    package = Path(surgery.__file__).parent
    others = [path for path in package.rglob("*.py") if "testing" not in path.relative_to(package).parts]
    assert not [path for path in others if "hypothesis" in path.read_text() or "surgery.testing" in path.read_text()]
