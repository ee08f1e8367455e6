"""`ModelGraph`: a traced model as a tree of scopes over torch.fx graphs, with roles, shapes and costs."""

from surgery.analysis.roles import Operator, Role
from surgery.graph.model_graph import ModelGraph
from surgery.recording.recording import Recording, Scope

__all__ = ["ModelGraph", "Operator", "Recording", "Role", "Scope"]
