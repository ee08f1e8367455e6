"""The processes of a run: how they are started, and how they work together."""
