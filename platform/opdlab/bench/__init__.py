"""`opdlab bench`: ways to the same result side by side in one process, as ratios."""
