"""Recipes: what a run does, as checked and frozen values. Nothing here imports torch or opens data."""
