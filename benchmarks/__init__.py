"""Measured figures, one command each."""
