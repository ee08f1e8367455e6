"""A run: its stages, its folder, its report, and what the terminal shows of it."""
