"""`ModelGraph`: a traced model as a tree of scopes over torch.fx graphs, with roles, shapes and costs."""

from surgery.graph.model_graph import ModelGraph
from surgery.graph.roles import Operator, Role
from surgery.graph.scope import Recording, Scope

__all__ = ["ModelGraph", "Operator", "Recording", "Role", "Scope"]
