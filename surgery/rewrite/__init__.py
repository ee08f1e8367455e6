"""Declarative rewriting: patterns find sites, rules say what goes there, a plan is checked, then committed or refused."""

from surgery.rewrite.commit import rewrite, undo
from surgery.rewrite.conflict import Conflict
from surgery.rewrite.edit import Change, Edit
from surgery.rewrite.match import find_sites
from surgery.rewrite.pattern import Pattern, block, chain, consecutive, fork, node, repeated
from surgery.rewrite.plan import Plan, plan
from surgery.rewrite.planner import Skipped
from surgery.rewrite.replacement import Call, Copy, New, Replacement, Resizing, Rewiring, Sharing
from surgery.rewrite.rule import Rule
from surgery.rewrite.selection import Selection, all_layers, every, indices, three_of_four, top, where
from surgery.rewrite.site import Item, Site

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
