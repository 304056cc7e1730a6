"""Pages and tables made of results: leaderboard, report, samples."""
