"""`ModelGraph`: the traced model."""

from __future__ import annotations

import copy

import networkx as nx
from torch import nn

from surgery.graph.codegen import Record, forget, generate
from surgery.graph.roles import Operator, Role, find_operators
from surgery.graph.scope import Scope
from surgery.graph.view import to_networkx


class ModelGraph:
    """A model as a tree of scopes, each an opened module with its `torch.fx` graphs.

    Attributes:
        model: the traced model; it is referred to, not copied, and never changed.
        scopes: by path, "" being the root, in the order in which the forward first enters them.
    """

    def __init__(self, model: nn.Module, scopes: dict[str, Scope], record: Record) -> None:
        self.model = model
        self.scopes = scopes
        self._record = record

    @property
    def root(self) -> Scope:
        """The scope of the whole model."""
        return self.scopes[""]

    @property
    def flops(self) -> int:
        """Floating point operations of one forward on the traced inputs; a multiply-add counts as two."""
        return self.root.recordings[0].flops

    @property
    def guards(self) -> list[str]:
        """Every condition on sizes that the recordings depend on, as `path: condition`."""
        return [f"{s.name}: {guard}" for s in self.scopes.values() for r in s.recordings for guard in r.guards]

    def operators(self, role: Role | None = None) -> list[Operator]:
        """The operators in execution order, recognised by what they do; only those of `role` if it is given."""
        return [operator for operator in find_operators(self.scopes) if role in (None, operator.role)]

    def to_networkx(self) -> nx.MultiDiGraph:
        """All scopes as one graph: a node for each graph node, edges for dataflow and for entering a scope."""
        return to_networkx(self.scopes)

    def module(self) -> nn.Module:
        """The model again, every scope running the forward generated from its graphs.

        It is an instance of the model's class, has the same `state_dict` keys and shares its parameters. Where no
        recording covers the inputs and the module's attributes, the scope's own class is recorded once more on the meta
        device. While gradients are checkpointed, under autocast, and in what torch.compile meets unrecorded, a module
        runs its own code.

        Raises (when called):
            GuardError: the model itself does not accept the inputs; the message names input, size and condition.
        """
        tensors = (*self.model.parameters(), *self.model.buffers())
        twin = copy.deepcopy(self.model, {id(tensor): tensor for tensor in tensors})
        for module in twin.modules():
            forget(module)
        generate(twin, self.scopes, "", self._record)
        return twin
