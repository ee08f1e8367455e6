"""Example inputs for a model, found by running its forward without arithmetic on inputs that its signature suggests."""

from surgery.models.inputs.search import example_inputs

__all__ = ["example_inputs"]
