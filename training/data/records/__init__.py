"""Turning images into record files: what `training.prepare` does."""
