"""The laws of rewriting, as functions that raise AssertionError where one does not hold.

A law about rules takes a `Case`; those about patterns take the `networkx` view of a model and a pattern.
"""

from collections.abc import Callable

from surgery.testing.case import Case
from surgery.testing.laws.data import data_survives_json
from surgery.testing.laws.failure import a_failure_changes_nothing
from surgery.testing.laws.matching import (
    matches_are_those_of_brute_force,
    matches_do_not_depend_on_names,
    pattern_survives_json,
    sites_are_those_of_brute_force,
    sites_do_not_depend_on_names,
)
from surgery.testing.laws.students import (
    a_saved_student_is_the_same,
    a_student_is_well_formed,
    exact_rules_are_exact,
    identity_rules_change_nothing,
    nothing_else_changes,
    the_plan_counts_what_the_student_has,
)
from surgery.testing.laws.undoing import disjoint_edits_commute, undo_gives_the_original_back

Law = Callable[[Case], None]

ALL: tuple[Law, ...] = (
    sites_are_those_of_brute_force,
    sites_do_not_depend_on_names,
    data_survives_json,
    a_student_is_well_formed,
    the_plan_counts_what_the_student_has,
    nothing_else_changes,
    undo_gives_the_original_back,
    disjoint_edits_commute,
    a_failure_changes_nothing,
    a_saved_student_is_the_same,
)
"""Those that hold of every rule."""

__all__ = [
    "ALL",
    "Law",
    "a_failure_changes_nothing",
    "a_saved_student_is_the_same",
    "a_student_is_well_formed",
    "data_survives_json",
    "disjoint_edits_commute",
    "exact_rules_are_exact",
    "identity_rules_change_nothing",
    "matches_are_those_of_brute_force",
    "matches_do_not_depend_on_names",
    "nothing_else_changes",
    "pattern_survives_json",
    "sites_are_those_of_brute_force",
    "sites_do_not_depend_on_names",
    "the_plan_counts_what_the_student_has",
    "undo_gives_the_original_back",
]
