"""Choosing edits under a budget: candidates, what each costs and harms, and the sets of them that are best."""
