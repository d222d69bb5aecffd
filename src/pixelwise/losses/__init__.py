"""Losses: pure functions of logits, mask and task."""
