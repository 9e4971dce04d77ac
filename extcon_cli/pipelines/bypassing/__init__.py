"""The parts of a bypass run: the stalled model, its diagnosis, and one branch for each strategy."""
