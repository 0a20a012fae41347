"""Checkpoint files of all formats, read without running any of their code."""

from keras_cvt.checkpoints.checkpoint import Checkpoint
from keras_cvt.checkpoints.reading import read
from keras_cvt.checkpoints.safetensors import write_safetensors
from keras_cvt.checkpoints.source import CheckpointError, TensorInfo

__all__ = ["Checkpoint", "CheckpointError", "TensorInfo", "read", "write_safetensors"]
