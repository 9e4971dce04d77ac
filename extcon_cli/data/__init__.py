"""Datasets and the in-memory loader."""
