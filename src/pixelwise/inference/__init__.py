"""Masks for new images of any size."""
