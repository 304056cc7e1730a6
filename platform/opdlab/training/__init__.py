"""Training: the Lightning module, what watches it, and the runs of an experiment."""
