"""The operators of a model as a tree of its modules, in which blocks that are alike stand once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

from surgery.analysis.roles import Operator, find_operators
from surgery.analysis.roles.structure import Structure
from surgery.recording.paths import outers, parent_and_name
from surgery.recording.recording import Scope


@dataclass
class Entry:
    """A module or an operator, and what is inside.

    Attributes:
        name: within the parent; `0-27` for blocks that are alike, `:node` for an operator that is no module.
        path: from the root; that of the first of several blocks.
        count: how many blocks it stands for.
        module_class: "" for an operator that is no module.
        params, flops: of one block.
    """

    name: str
    path: str
    module_class: str = ""
    operator: Operator | None = None
    params: int = 0
    flops: int = 0
    count: int = 1
    children: list[Entry] = field(default_factory=list)

    @property
    def likeness(self) -> Hashable:
        """What two entries share that are alike but for their paths."""
        role = self.operator and (self.operator.role, self.operator.in_shape, self.operator.out_shape)
        inside = tuple((child.name, child.count, child.likeness) for child in self.children)
        return (self.module_class, role, self.params, self.flops, inside)


def module_tree(scopes: Mapping[str, Scope]) -> Entry:
    """The whole model as an entry, with its operators and the modules that they stand in."""
    root = scopes[""]
    top = Entry("", "", root.module_class.__name__, None, root.params, root.recordings[0].flops)
    for operator in find_operators(Structure(scopes)):
        _add(top, operator, scopes)
    return _folded(top)


def _add(top: Entry, operator: Operator, scopes: Mapping[str, Scope]) -> None:
    """Add `operator` below the entries of the modules around it; these are made if they are new."""
    entry, node = top, operator.path.partition(":")[2]
    for path in outers(operator.scope):
        entry = _child(entry, path, scopes)
    if node:
        entry.children.append(Entry(f":{node}", operator.path))
        entry = entry.children[-1]
    entry.operator, entry.params, entry.flops = operator, operator.params, operator.flops
    entry.module_class = operator.module_class


def _child(parent: Entry, path: str, scopes: Mapping[str, Scope]) -> Entry:
    """The entry of the module at `path`, which stands in that of `parent`."""
    name = parent_and_name(path)[1]
    known = next((child for child in parent.children if child.name == name), None)
    if known is None:
        scope = scopes.get(path)
        known = Entry(name, path)
        if scope is not None:
            known = Entry(name, path, scope.module_class.__name__, None, scope.params, scope.recordings[0].flops)
        parent.children.append(known)
    return known


def _folded(entry: Entry) -> Entry:
    """`entry` with runs of numbered children that are alike as one child each."""
    folded: list[Entry] = []
    for child in map(_folded, entry.children):
        last = folded[-1] if folded else None
        if last and _numbered(last) and child.name.isdigit() and last.likeness == child.likeness:
            last.count += 1
            last.name = f"{last.name.partition('-')[0]}-{child.name}"
        else:
            folded.append(child)
    return replace(entry, children=folded)


def _numbered(entry: Entry) -> bool:
    return entry.name.replace("-", "").isdigit()
