"""Sweeps: a search over any keys of an experiment, by Optuna, in processes that may die."""
