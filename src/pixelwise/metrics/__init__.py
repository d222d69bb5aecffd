"""Metrics: counts that add up, and scores that are pure functions of the counts."""
