"""Recipes: their schema, where they are found, and how they are overridden. Imports no torch."""
