"""From a model and example inputs to a `ModelGraph`, by recording one run on the meta device."""

from surgery.tracing.tracer import trace

__all__ = ["trace"]
