"""Catalyst: which filters go, and how they reach exactly zero (Jung & Lee 2025, arXiv 2507.14170).

filters.py          F_i, the parameters whose zeros make filter i zero, of all groups in one flat view
scores.py           what each filter is worth by itself
saliency.py         what each filter is worth where the others are refitted: the default score
target.py           which filters go: smallest first, until the target is met
knapsack.py         which filters go under a budget of MACs, parameters or bytes
alike.py            the same where groups keep one share, since a configuration has one number for their widths
limits.py           floors, shares and rounding of each group
bifurcation.py      how they reach exactly zero: along the flow of |d| ||F||, by proximal steps, under the penalty
regulariser.py      the paper's R(F, d), its race, and Group Lasso
local_hand_over.py  least squares: what stays takes over from what goes, map by map while it shrinks
hand_over.py        the same front to back, so that the smaller model's stream is the original's
least_squares.py    ridge regression from normal equations
synthesis.py        calibration inputs without data: made to batch norm's statistics, or a language model's own text
carry_over.py       after a removal in place, the optimizer's states for what is left
attach.py           `Catalyst`, for people with their own training loop

Knows modules and tensors; never a path, a recipe or a data set.
"""
