"""Training methods: one leaf file each, torch and records only, each readable alone."""
