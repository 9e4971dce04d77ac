"""Catalyst: scores, decision and bifurcation. Knows modules and tensors, never a path or a recipe."""
