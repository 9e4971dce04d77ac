"""The phases of pruning, in the order of `pipelines/prune.py`, and what they share."""
