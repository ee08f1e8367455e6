"""`check_rule`: the laws of rewriting, tried on one rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import assume, given, settings
from torch import nn

from surgery.rewriting import Rule
from surgery.testing import profiles
from surgery.testing.case import Case
from surgery.testing.compare import require
from surgery.testing.laws import ALL, Law, exact_rules_are_exact, identity_rules_change_nothing
from surgery.testing.strategies import cases

TRIES = 40
"""So many random models in a row may not be what a rule is for; then there is little hope for others."""


def check_rule(
    rule: Rule,
    *,
    exact: bool = False,
    identity: bool = False,
    model: nn.Module | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> None:
    """Try every law of rewriting on `rule`, on random transformers or on a given model.

    The environment variable HYPOTHESIS_PROFILE says on how many random models: "ci" (the default) or "nightly".

    Args:
        rule: its parameters are kept as they are.
        exact: whether the student computes what the teacher does, but for rounding.
        identity: whether the student is the teacher, bit for bit.
        model: to be tried on this model only; needed for a rule that matches nothing in a random one.
        inputs: of `model`.

    Raises:
        AssertionError: a law does not hold; the message says which, for which model and why.
    """
    laws = [*ALL, *[exact_rules_are_exact] * exact, *[identity_rules_change_nothing] * identity]
    if model is not None:
        check_case(Case(rule, model, inputs or {}), laws)
    else:
        _check_on_random_models(rule, laws)


def _check_on_random_models(rule: Rule, laws: Sequence[Law]) -> None:
    refused, applied = 0, False

    @settings(settings.get_profile(profiles.chosen()))
    @given(cases(rule))
    def check(case: Case) -> None:
        nonlocal refused, applied
        if case.refusal is not None:
            refused += 1
            is_hopeless = not applied and refused >= TRIES
            require(not is_hopeless, f"{rule.name}: applies to none of {TRIES} random models; give model= and inputs=")
            assume(False)
        applied = True
        check_case(case, laws)

    check()


def check_case(case: Case, laws: Sequence[Law]) -> None:
    """Try laws on one case; the error of one that does not hold says which it is."""
    for law in laws:
        try:
            law(case)
        except Exception as error:
            error.add_note(f"the law that does not hold: {law.__name__.replace('_', ' ')}")
            raise
