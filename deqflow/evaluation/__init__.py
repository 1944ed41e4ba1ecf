"""Metrics, benchmark runs and timing."""
