"""Leaderboard and reports for opdlab."""
