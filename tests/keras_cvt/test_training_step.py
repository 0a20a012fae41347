"""One training step equals the official code's (torch backend only, in the torch environment).

Hugging Face's CvT with QuickGELU in place of its exact GELU equals the official code bit for bit
(tests/reference shows what either answers), so it stands in for the official code here, in float64.
"""

import keras
import numpy as np
import pytest
import reference_models
from backend import BACKEND, gradients

from keras_cvt.weights import named_variables, names

if BACKEND != "torch":
    pytest.skip(
        "compares with a PyTorch implementation: `make test-torch`", allow_module_level=True
    )

import torch
import transformers

BATCH, CLASSES = 6, 10
CONFIG = {
    "embed_dim": [16, 32, 64],
    "depth": [1, 2, 3],
    "num_heads": [1, 2, 4],
    "drop_path_rate": [0.0, 0.0, 0.0],
    "num_labels": CLASSES,
}


class QuickGELU(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Loss, gradients and statistics after one step in training mode: (ours, theirs)."""
    # The published weights' layout, with the reference's own numbers.
    weights = reference_models.state_dict("tiny")
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, 56, 72, 3))
    labels = rng.integers(0, CLASSES, BATCH)

    peer = transformers.CvtForImageClassification(transformers.CvtConfig(**CONFIG)).double()
    for module in list(peer.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "GELUActivation" or isinstance(child, torch.nn.GELU):
                setattr(module, name, QuickGELU())
    result = peer.load_state_dict(
        {names.huggingface(k): torch.tensor(v) for k, v in weights.items()}, strict=True
    )
    assert not result.missing_keys and not result.unexpected_keys
    peer.train()
    logits = peer(torch.tensor(images).permute(0, 3, 1, 2)).logits
    their_loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    their_loss.backward()
    their_state = {k: v.numpy() for k, v in peer.state_dict().items()}
    theirs = (
        float(their_loss),
        {k: None if p.grad is None else p.grad.numpy() for k, p in peer.named_parameters()},
        their_state,
    )

    model = reference_models.model(
        "tiny", tmp_path_factory.mktemp("weights"), dtype="float64", activation="quick_gelu"
    )
    before = {k: keras.ops.convert_to_numpy(v) for k, v in named_variables(model).items()}

    def loss(model, images):
        logits = model(images, training=True)
        return keras.ops.mean(
            keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        )

    value, grads = gradients(loss, model, torch.tensor(images))
    paths = {v.path: k for k, v in named_variables(model).items()}
    after = {k: keras.ops.convert_to_numpy(v) for k, v in named_variables(model).items()}
    ours = (value, {paths[path]: grad for path, grad in grads.items()}, after)
    return ours, theirs, before


def close(ours, theirs, name, smallest=1e-8):
    scale = max(np.abs(theirs).max(), smallest)
    assert np.abs(ours - theirs).max() / scale < 1e-4, name


def test_loss(steps):
    (ours, *_), (theirs, *_), _ = steps
    assert theirs > 0.5  # there is something to compare
    assert abs(ours - theirs) / theirs < 1e-4


def test_gradients_of_every_weight(steps):
    (_, ours, _), (_, theirs, _), _ = steps
    assert {names.huggingface(name) for name in ours} == set(theirs)
    # Some are zero but for rounding: the softmax does not see what all keys have in common. And
    # Keras' norms round to float32 on torch, also under the policy float64.
    smallest = 1e-2 * np.median([np.abs(grad).max() for grad in theirs.values()])
    for name, grad in ours.items():
        their = theirs[names.huggingface(name)]
        assert grad is not None and their is not None, name
        close(names.to_torch(name, grad), their, name, smallest)


def test_batch_norm_statistics(steps):
    """The mean as it is; the variance up to the factor that torch, not Keras, puts on it.

    Both normalize with the batch's variance over its n numbers per channel. Into the moving variance
    Keras mixes the same, and torch that times n / (n - 1).
    """
    (_, _, ours), (_, _, theirs), before = steps
    compared = 0
    sizes = {0: (14, 18), 1: (7, 9), 2: (4, 5)}
    for name, mean in ours.items():
        if not name.endswith(".running_mean"):
            continue
        their_mean = theirs[names.huggingface(name)]
        assert np.abs(their_mean - before[name]).max() > 1e-4, name  # it has moved
        close(mean, their_mean, name)

        height, width = sizes[int(name[5])]
        if ".conv_proj_q." not in name:
            height, width = -(-height // 2), -(-width // 2)
        n = BATCH * height * width
        name = name.replace("running_mean", "running_var")
        batch_variance = (ours[name] - 0.9 * before[name]) / 0.1
        with_factor = 0.9 * before[name] + 0.1 * batch_variance * n / (n - 1)
        their_variance = theirs[names.huggingface(name)]
        close(with_factor, their_variance, name)
        assert np.abs(ours[name] - their_variance).max() > 1e-6  # and the factor is needed
        compared += 1
    assert compared == 3 * 6
