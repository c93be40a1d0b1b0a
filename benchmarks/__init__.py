"""Timings of perfsim beside their goals: ``python -m benchmarks``."""
