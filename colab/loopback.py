"""TensorFlow Serving's gRPC service on this machine, without TensorFlow Serving.

It takes and answers TensorFlow Serving's own messages, with a SavedModel's signatures. It is for trying
a client where no docker is; `tensorflow_model_server` does much more.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_cvt.export import saved_model


class _Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, name: str, path: Path):
        self._name = name
        self._signatures = saved_model.signatures(path)

    def Predict(self, request, context):
        spec = request.model_spec
        if spec.name != self._name or spec.signature_name not in self._signatures:
            message = f"There is no {spec.signature_name} of {spec.name}"
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        inputs = {
            name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()
        }
        response = predict_pb2.PredictResponse()
        for name, value in self._signatures[spec.signature_name](**inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response


@contextlib.contextmanager
def serve(name: str, path: Path | str) -> Iterator[str]:
    """Serves one version of a SavedModel as `name`, and gives the address, as "127.0.0.1:40000"."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    service = _Service(name, Path(path))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)
