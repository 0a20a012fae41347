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
from keras_cvt.inference.exported import KEY, openvino_run

load = openvino_run


def write(model: Classifier, path: Path) -> None:
    """Writes the two files, from `images` to `probabilities`."""
    with graph.saved(model) as folder:
        converted = openvino.convert_model(folder)
        converted.set_rt_info(model.description.to_json(), [KEY])
        openvino.save_model(converted, path, compress_to_fp16=False)
