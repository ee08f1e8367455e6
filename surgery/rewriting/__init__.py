"""Declarative rewriting: patterns find sites, rules say what goes there, a plan is checked, then committed or refused."""

from surgery.rewriting.commit import rewrite, undo
from surgery.rewriting.conflict import Conflict
from surgery.rewriting.edit import Change, Edit, Skipped
from surgery.rewriting.match import find_sites
from surgery.rewriting.pattern import Pattern
from surgery.rewriting.pattern_forms import block, chain, consecutive, fork, node, repeated
from surgery.rewriting.planning import Plan, plan
from surgery.rewriting.replacement import Call, Copy, New, Replacement, Resizing, Rewiring, Sharing
from surgery.rewriting.rule import Rule
from surgery.rewriting.selection import Selection, all_layers, every, indices, three_of_four, top, where
from surgery.rewriting.site import Item, Site

__all__ = [
    "Call",
    "Change",
    "Conflict",
    "Copy",
    "Edit",
    "Item",
    "New",
    "Pattern",
    "Plan",
    "Replacement",
    "Resizing",
    "Rewiring",
    "Rule",
    "Selection",
    "Sharing",
    "Site",
    "Skipped",
    "all_layers",
    "block",
    "chain",
    "consecutive",
    "every",
    "find_sites",
    "fork",
    "indices",
    "node",
    "plan",
    "repeated",
    "rewrite",
    "three_of_four",
    "top",
    "undo",
    "where",
]
