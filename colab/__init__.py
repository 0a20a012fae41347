"""Notebooks, and what they need beside the package."""
