"""Search over the codes of a space: limits, evolution and the Pareto frontier. No torch."""
