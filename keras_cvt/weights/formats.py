"""The checkpoints that can be written. Nothing here imports Keras."""

KEYS = ("official", "huggingface")  # the names of tensors in a .safetensors file

SUFFIXES = (".safetensors", ".weights.h5", ".keras")
