"""From a model and example inputs to a `ModelGraph`, by recording one run on the meta device."""

from surgery.trace.tracer import trace

__all__ = ["trace"]
