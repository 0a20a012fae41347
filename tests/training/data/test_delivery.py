"""Batches that a tf.data service prepares."""

from __future__ import annotations

import dataclasses

import pytest
import tensorflow as tf
from data_cases import batches_of, config_for

from training import data
from training.config import ConfigError
from training.data.sources import Example


@pytest.fixture
def service():
    servers = tf.data.experimental.service
    dispatcher = servers.DispatchServer()
    address = dispatcher.target.split("://")[1]
    workers = [
        servers.WorkerServer(servers.WorkerConfig(dispatcher_address=address)) for _ in range(2)
    ]
    yield dispatcher.target
    for worker in workers:
        worker._stop()
    dispatcher._stop()


def test_a_service_prepares_the_same_batches(damaged_folder, access, service):
    path, bad = damaged_folder
    # It is a GIF, by whatever name, which needs Pillow, and which a service could not read.
    (gif,) = path.rglob("03.jpg")
    gif.write_bytes(next(path.rglob("20.jpg")).read_bytes())
    config = config_for(path, crop_scale=(1.0, 1.0))
    images, damaged = access(data.load(config)), data.Damaged(4)
    own = batches_of(config, images, data.Damaged(4))
    served = batches_of(config.replace(data_service=service), images, damaged)
    assert sorted(damaged.names) == bad  # known here, wherever they were found

    def groups(batches):
        return sorted(x[i : i + 4].tobytes() for x, _ in batches for i in (0, 4))

    # All of them, but perhaps in another order.
    assert len(served) == len(own)
    assert groups(served) == groups(own)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("grpc://localhost:1", r"\[Errno \d+\] .*"),
        ("localhost:1", "it is not PROTOCOL://HOST:PORT"),
        ("grpc://localhost", "it is not PROTOCOL://HOST:PORT"),
        ("grpc://localhost:port", "it is not PROTOCOL://HOST:PORT"),
        ("grpc://localhost:65536", "it is not PROTOCOL://HOST:PORT"),
    ],
)
def test_a_service_that_does_not_answer_is_an_error(folder, address, why):
    said = f"`data_service` must be .*Received '{address}': {why}.$"
    with pytest.raises(ConfigError, match=said):
        batches_of(config_for(folder, data_service=address))


def test_a_source_that_needs_python_is_not_served(folder):
    config = config_for(folder, data_service="grpc://localhost:1")
    images = data.load(config)

    def at(index: tf.Tensor) -> Example:
        example = images.train.at(index)
        image = tf.numpy_function(lambda x: x, [example["image"]], tf.string)
        return {**example, "image": tf.ensure_shape(image, ())}

    with pytest.raises(ConfigError, match="`data_service` can't be used with folder"):
        batches_of(
            config, data.RunData(dataclasses.replace(images.train, at=at), images.validation)
        )


def test_images_that_need_pillow_are_not_served(folder):
    config = config_for(folder, data_service="grpc://localhost:1")
    images = data.load(config)
    assert images.train.needs_pillow == ""
    train = dataclasses.replace(images.train, needs_pillow="a.tif")
    with pytest.raises(ConfigError, match="other than JPEG and PNG.*which has a.tif"):
        batches_of(config, data.RunData(train, images.validation))
