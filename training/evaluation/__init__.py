"""Evaluation of a model on labeled images: what `python -m training.evaluate` does."""
