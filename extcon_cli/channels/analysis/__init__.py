"""Which channels go together, and which stay: trace, rules, groups, constants. Reads a module and changes nothing."""
