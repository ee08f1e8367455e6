"""Editing the graph of a scope: where an edit applies, whether it is well-formed, and what comes of it."""
