"""Evaluators, grading and statistics for opdlab, found through its entry points."""
