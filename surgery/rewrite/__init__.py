"""Declarative rewriting: patterns find sites, rules say what goes there, a plan is checked, then committed or refused."""

from surgery.rewrite.commit import rewrite, undo
from surgery.rewrite.pattern import OperatorPattern
from surgery.rewrite.plan import Edit, Plan, Skipped, plan
from surgery.rewrite.rule import Replacement, Rule
from surgery.rewrite.selection import Selection, all_layers, every, indices, three_of_four, top, where
from surgery.rewrite.site import Site

__all__ = [
    "Edit",
    "OperatorPattern",
    "Plan",
    "Replacement",
    "Rule",
    "Selection",
    "Site",
    "Skipped",
    "all_layers",
    "every",
    "indices",
    "plan",
    "rewrite",
    "three_of_four",
    "top",
    "undo",
    "where",
]
