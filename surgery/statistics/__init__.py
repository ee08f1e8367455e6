"""Figures of a model's layers while it samples: what its attention looks at, and what its operators do to the stream."""
