"""Keras 3's weights files."""

import struct
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import programs
import pytest
from checkpoint_files import (
    assert_same,
    save_layer,
    values,
)

from keras_cvt.checkpoints import CheckpointError, read


@pytest.fixture(scope="module")
def keras_model():
    import keras

    class Attention(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.query = keras.layers.Dense(4, name="proj_q", dtype=self.dtype_policy)
            self.norms = [keras.layers.BatchNormalization(name=f"norm{i}") for i in (1, 2)]
            self.drop = keras.layers.Dropout(0.5, seed=3)

        def build(self, shape):
            self.token = self.add_weight(shape=(1, shape[-1]), name="cls_token")
            for layer in (self.query, *self.norms):
                layer.build(shape)
            super().build(shape)

        def call(self, x):
            return self.drop(self.norms[1](self.norms[0](self.query(x + self.token))))

    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.attn = Attention(name="attn", dtype=self.dtype_policy)

        def build(self, shape):
            self.attn.build(shape)
            super().build(shape)

        def call(self, x):
            return self.attn(x)

    inputs = x = keras.Input((4,), name="images")
    x = Block(name="stage1_blocks_0")(x)
    x = Block(name="stage1_blocks_1")(x)
    x = keras.layers.Dense(4, dtype="bfloat16", name="narrow")(x)
    top = [keras.Input((4,)), keras.layers.Dense(3, name="fc", use_bias=False)]
    model = keras.Model(inputs, keras.Sequential(top, name="head")(x), name="cvt")
    model.compile("adam", "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def numpy_of(variable):
    import keras

    return keras.ops.convert_to_numpy(variable.value)


def expected_of(model):
    expected = {}
    for i in (0, 1):
        attn = model.get_layer(f"stage1_blocks_{i}").attn
        layers = {"": [attn.token], "/proj_q": attn.query.variables}
        # Keras saves trainable variables first.
        for norm in attn.norms:
            order = [norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance]
            layers[f"/{norm.name}"] = order
        for name, variables in layers.items():
            for place, variable in enumerate(variables):
                expected[f"stage1_blocks_{i}/attn{name}/{place}"] = numpy_of(variable)
    narrow, fc = model.get_layer("narrow"), model.get_layer("head").get_layer("fc")
    expected["narrow/0"] = numpy_of(narrow.kernel)
    expected["narrow/1"] = numpy_of(narrow.bias)
    expected["head/fc/0"] = numpy_of(fc.kernel)
    return expected


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
def test_keras_model(keras_model, tmp_path, name):
    path = tmp_path / name
    (keras_model.save_weights if name.endswith("h5") else keras_model.save)(path)
    with read(path) as found:
        assert found.format == "keras-h5"
        expected = expected_of(keras_model)
        assert expected["narrow/0"].dtype == ml_dtypes.bfloat16
        assert_same(found, expected)
        assert found.info("stage1_blocks_1/attn/proj_q/0") == ((4, 4), np.dtype("float32"))


def test_keras_archive_is_checked_before_it_is_parsed(keras_model, tmp_path):
    path = tmp_path / "model.keras"
    keras_model.save(path)
    data = bytearray(path.read_bytes())
    weights = numpy_of(keras_model.get_layer("head").get_layer("fc").kernel).tobytes()
    data[data.index(weights)] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model.weights.h5.*CRC-32"):
        read(path)


@pytest.fixture
def h5(path):
    """A small weights file, still open for changes; reading closes it."""
    with h5py.File(path, "w") as file:
        save_layer(file, "layers/dense", "fc", values(2, 3), values(3))
        save_layer(file, "", "model")
        yield file


def refused(file, message):
    path = file.filename
    file.close()
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert path in str(caught.value)


def test_h5_as_keras_wrote_it_before(path):
    # Early versions: other top group, seed generators and optimizers saved like layers.
    with h5py.File(path, "w") as file:
        root = file.create_group("_layer_checkpoint_dependencies")
        save_layer(root, "dense", "fc", values(2), np.float32(3))
        save_layer(root, "dropout", "drop")
        save_layer(root, "dropout/seed_generator", "seed_generator", np.zeros(2, np.uint32))
        save_layer(root, "dense/optimizer", "adam", np.zeros(2))
        save_layer(file, "optimizer", "adam", np.zeros(2))
        save_layer(file, "metrics/mean", "mean", np.zeros(2))
    assert_same(read(path), {"fc/0": values(2), "fc/1": np.array(3, np.float32)})


def test_h5_empty_variable(h5):
    save_layer(h5, "layers/none", "none", np.empty((0, 3), np.float32))
    path = h5.filename
    h5.close()
    assert read(path)["none/0"].shape == (0, 3)


def test_h5_two_tensors_of_one_name(h5):
    save_layer(h5, "layers/dense_1", "fc", values(2))
    refused(h5, "two tensors are named fc/0")


def test_h5_of_something_else(path):
    with h5py.File(path, "w") as file:
        file["model_weights/dense/kernel:0"] = values(2)
    with pytest.raises(CheckpointError, match="holds model_weights, and no layers"):
        read(path)


def test_h5_without_a_name(h5):
    del h5["layers/dense/vars"].attrs["name"]
    refused(h5, "damaged")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (3, "not text"),
        (np.bytes_(b"fc"), "not text"),
        (["a", "b"], "an array"),
        (["a"], "an array"),
        ("x" * 513, "not a short text"),
    ],
)
def test_h5_name_that_is_none(h5, name, message):
    h5["layers/dense/vars"].attrs["name"] = name
    refused(h5, f"attribute name is {message}")


def test_h5_links(h5, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        save_layer(other, "layers/dense", "fc", values(2))
    h5["layers/more"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/layers/dense")
    refused(h5, "more is a link")


def test_h5_soft_link(h5):
    h5["layers/dense/vars/2"] = h5py.SoftLink("/layers/dense/vars/0")
    refused(h5, "2 is a link")


def test_h5_cycle(h5):
    h5["layers/dense/self"] = h5["layers"]
    refused(h5, "linked twice")


def test_h5_two_ways_to_a_group(h5):
    # Each such pair would double the work of a walk that does not look where it has been.
    h5["layers/one"] = h5.create_group("layers/two")
    refused(h5, "linked twice")


def test_h5_too_deep(h5):
    h5.create_group("layers/" + "a/" * 100)
    refused(h5, "too deep")


def test_h5_data_elsewhere(h5, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    h5["layers/dense/vars"].create_dataset("2", (4,), "float32", external=[(str(secret), 0, 16)])
    refused(h5, "fc/2 is chunked, compressed or elsewhere")


def test_h5_virtual_data(h5):
    layout = h5py.VirtualLayout((2, 3), "float32")
    layout[:] = h5py.VirtualSource(h5["layers/dense/vars/0"])
    h5["layers/dense/vars"].create_virtual_dataset("2", layout)
    refused(h5, "fc/2 is chunked, compressed or elsewhere")


@pytest.mark.parametrize("options", [{"chunks": (64,)}, {"compression": "gzip"}])
def test_h5_bomb(h5, options):
    h5["layers/dense/vars"].create_dataset("2", (1 << 40,), "uint8", **options)
    refused(h5, "fc/2 is chunked")


@pytest.mark.parametrize("size", [4, 1 << 40])
def test_h5_data_never_written(h5, size):
    h5["layers/dense/vars"].create_dataset("2", (size,), "uint8")
    refused(h5, "fc/2")


@pytest.mark.parametrize(
    "array",
    [values(2).astype(">f4"), np.bytes_(b"text"), np.zeros(2, [("a", "f4"), ("b", "i4")])],
)
def test_h5_number_formats(h5, array):
    h5["layers/dense/vars"]["2"] = array
    refused(h5, "fc/2 has")


def test_h5_number_format_of_its_own(h5):
    # HDF5 can describe any floating-point format; h5py shows the nearest that numpy has.
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    variables = h5["layers/dense/vars"]
    space = h5py.h5s.create_simple((2,))
    h5py.h5d.create(variables.id, b"2", kind, space)
    variables["2"][:] = 1
    refused(h5, "fc/2 has a number format")


def test_h5_narrow_offsets(path):
    plan = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plan.set_sizes(4, 4)
    h5py.h5f.create(bytes(path), fcpl=plan).close()
    with pytest.raises(CheckpointError, match="8 bytes wide"):
        read(path)


def test_h5_not_a_dataset(h5):
    h5.create_group("layers/dense/vars/2")
    refused(h5, "2 is not what Keras puts there")


def test_h5_not_a_group(h5):
    h5["layers/stray"] = values(2)
    refused(h5, "stray is not what Keras puts there")


# In a process of its own, for the case that the HDF5 library hangs or crashes. The limit is one of
# processor time, so that a busy machine makes no difference.
READ_WITHIN_TEN_SECONDS = """
import resource, sys
from keras_cvt.checkpoints import CheckpointError, read
used = resource.getrusage(resource.RUSAGE_SELF)
limit = int(used.ru_utime + used.ru_stime) + 10
resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
for path in sys.argv[1:]:
    try:
        dict(read(path))
    except CheckpointError:
        print("refused", path)
"""


def test_h5_text_that_would_never_end(h5):
    # HDF5 1.14 walks for ever through a global heap whose free space has the size 0.
    path = Path(h5.filename)
    h5.close()
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL") + 16
    while struct.unpack_from("<H", data, heap)[0]:
        heap += 16 + -(-struct.unpack_from("<Q", data, heap + 8)[0] // 8) * 8
    damaged = []
    for size in (0, 2**40):
        struct.pack_into("<Q", data, heap + 8, size)
        damaged.append(path.with_name(f"{size}.h5"))
        damaged[-1].write_bytes(data)
    said = programs.run("-c", READ_WITHIN_TEN_SECONDS, *map(str, damaged))
    assert [line for line in said.splitlines() if line.startswith("refused")] == [
        f"refused {path}" for path in damaged
    ]
