"""Datasets and the in-memory loader."""

SPLITS = ("test", "validation", "train")
"""The parts of a data set that can be measured on."""
