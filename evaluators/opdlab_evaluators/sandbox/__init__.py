"""Model-written programs run in real processes that cannot reach the machine; results leave as data."""
