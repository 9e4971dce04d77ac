"""Catalyst: which filters go, and how they reach exactly zero (Jung & Lee 2025, arXiv 2507.14170).

filters.py     F_i, the parameters whose zeros silence filter i, of all groups in one flat view
scores.py      what each filter is worth
target.py      which filters go: smallest first, until the target is met
flow.py        the bifurcation along the gradient flow of |d| ||F||
regulariser.py the paper's own forms: the race, subgradient and proximal steps
compensate.py  least squares: what stays stands in for what goes
attach.py      `Catalyst`, for people with their own training loop

Knows modules and tensors; never a path, a recipe or a data set.
"""
