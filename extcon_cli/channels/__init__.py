"""Channel analysis and exact removal: trace, rules, groups, plan, apply, verify."""
