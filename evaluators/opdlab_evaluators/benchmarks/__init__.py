"""Benchmarks: a file each, on two bases, mathematics and code."""
