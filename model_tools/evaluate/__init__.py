"""How good a model is on a data set: metrics, statistics, and the acceptance report."""
