"""OpenVINO's intermediate representation: an .xml file, and the weights in a .bin file beside it.

The weights are float32. OpenVINO may still calculate in less: by itself it takes bfloat16 where the
processor has it, and then its probabilities differ from Keras' by some thousandths.
`INFERENCE_PRECISION_HINT: f32` keeps it from that, and is what the file is verified with.
"""

from __future__ import annotations

from pathlib import Path

import openvino

from keras_cvt.export import graph
from keras_cvt.export.classifier import Classifier
from keras_cvt.export.verify import Run


def write(model: Classifier, path: Path) -> None:
    """Writes the two files, from `images` to `probabilities`."""
    with graph.saved(model) as folder:
        openvino.save_model(openvino.convert_model(folder), path, compress_to_fp16=False)


def load(path: Path, precision: str = "f32") -> Run:
    """Answers with OpenVINO, on the CPU; `precision` is its hint."""
    options = {"INFERENCE_PRECISION_HINT": precision}
    compiled = openvino.compile_model(path, "CPU", options)
    return lambda images: compiled({"images": images})["probabilities"]
