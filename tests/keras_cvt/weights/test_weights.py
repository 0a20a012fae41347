"""Published weights, names, and what loading refuses (keras_cvt/weights)."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import textwrap
import zipfile

import keras
import numpy as np
import pytest
import reference_models
from backend import numpy
from hub import Hub
from weights_cases import FILES, TINY, tiny

import keras_cvt
from keras_cvt import checkpoints, weights
from keras_cvt.architecture import VARIANTS
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.weights import names


def test_names_of_all_conventions():
    for path, official, huggingface in (
        ("stage0_patch_embed/proj/kernel", "stage0.patch_embed.proj.weight",
         "cvt.encoder.stages.0.embedding.convolution_embeddings.projection.weight"),
        ("stage2_cls_token/token", "stage2.cls_token", "cvt.encoder.stages.2.cls_token"),
        ("stage1_blocks_12/attn/conv_proj_k/bn/moving_variance",
         "stage1.blocks.12.attn.conv_proj_k.bn.running_var",
         "cvt.encoder.stages.1.layers.12.attention.attention.convolution_projection_key."
         "convolution_projection.normalization.running_var"),
        ("stage1_blocks_0/attn/proj/bias", "stage1.blocks.0.attn.proj.bias",
         "cvt.encoder.stages.1.layers.0.attention.output.dense.bias"),
        ("stage1_blocks_0/mlp/fc2/kernel", "stage1.blocks.0.mlp.fc2.weight",
         "cvt.encoder.stages.1.layers.0.output.dense.weight"),
        ("norm/gamma", "norm.weight", "layernorm.weight"),
        ("head/bias", "head.bias", "classifier.bias"),
    ):  # fmt: skip
        assert names.official(path) == official
        assert names.huggingface(official) == huggingface
        assert names._from_huggingface(huggingface) == official


def test_every_name_of_the_reference_is_made_by_rule():
    state = {k for k in reference_models.state_dict("tiny") if not k.endswith(names.IGNORED_SUFFIX)}
    assert set(weights.named_variables(tiny())) == state
    assert {names._from_huggingface(names.huggingface(k)) for k in state} == state


@pytest.mark.parametrize("file", FILES)
def test_all_formats_give_the_official_logits(saved, file):
    model = tiny(weights=saved / file)
    logits = numpy(model(reference_models.images("odd")))
    official = reference_models.outputs("tiny")["odd_logits"]
    assert np.abs(logits - official).max() < 1e-4


def test_all_formats_fill_the_same_bits(saved):
    first, *others = (tiny(weights=saved / file) for file in FILES)
    for other in others:
        for ours, theirs in zip(first.weights, other.weights, strict=True):
            np.testing.assert_array_equal(numpy(ours), numpy(theirs))


def test_name_scopes_and_names_decide_nothing(saved):
    with keras.name_scope("outer"):
        model = tiny(weights=saved / "official.pth", name="anything")
    logits = numpy(model(reference_models.images("odd")))
    assert np.abs(logits - reference_models.outputs("tiny")["odd_logits"]).max() < 1e-4


def test_other_classes_keep_the_backbone(saved, caplog):
    keras.utils.set_random_seed(3)
    with caplog.at_level(logging.WARNING, "keras_cvt"):
        model = tiny(classes=4, weights=saved / "official.pth")
    assert "is for 10 classes" in caplog.text and "for 4, is new" in caplog.text
    keras.utils.set_random_seed(3)
    fresh = tiny(classes=4)
    for weight, other in zip(model.weights, fresh.weights, strict=True):
        if weight.path.startswith("head"):
            np.testing.assert_array_equal(numpy(weight), numpy(other))
    full = tiny(weights=saved / "official.pth")
    x = reference_models.images("wide")
    features = [numpy(keras.Model(m.input, m.get_layer("norm").output)(x)) for m in (model, full)]
    np.testing.assert_array_equal(*features)


@pytest.mark.parametrize("pooling", [None, "avg", "token"])
def test_backbones(saved, pooling, caplog):
    for file in FILES:
        backbone = tiny(include_top=False, pooling=pooling, weights=saved / file)
        assert not caplog.text
        map_ = keras_cvt.feature_pyramid(backbone)(reference_models.images("wide"))["P4"]
        official = reference_models.outputs("tiny")["wide_stage3"]
        assert np.abs(numpy(map_) - official).max() < 1e-4


def test_a_backbones_file_has_no_classifier(saved, tmp_path):
    tiny(include_top=False, weights=saved / "official.pth").save_weights(tmp_path / "b.weights.h5")
    tiny(include_top=False, weights=tmp_path / "b.weights.h5")
    with pytest.raises(ValueError, match="no classifier.*include_top=False"):
        tiny(weights=tmp_path / "b.weights.h5")
    with pytest.raises(ValueError, match="2 missing from the file .norm"):
        tiny(include_top=False, pooling="avg", weights=tmp_path / "b.weights.h5")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files(tmp_path, dtype):
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    state = {
        k: v.astype(kind) if v.dtype == np.float32 else v
        for k, v in reference_models.state_dict("tiny").items()
    }
    checkpoints.write_safetensors(tmp_path / "half.safetensors", state)
    model = tiny(weights=tmp_path / "half.safetensors")
    head = numpy(weights.named_variables(model)["head.weight"])
    assert head.dtype == np.float32
    np.testing.assert_array_equal(head, state["head.weight"].astype("float32").T)


def _changed(tmp_path, **changes):
    state = reference_models.state_dict("tiny")
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    checkpoints.write_safetensors(tmp_path / "changed.safetensors", state)
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm__bias": None}, "1 missing from the file .norm.bias"),
        ({"extra__weight": np.zeros(3, "float32")}, "1 of the file not in the model .extra.weight"),
        (
            {"stage1__blocks__1__mlp__fc1__bias": np.zeros(7, "float32")},
            "of another shape .stage1.blocks.1.mlp.fc1.bias .7,. for .128,.",
        ),
        ({"stage0__patch_embed__proj__weight": None}, "no checkpoint of a CvT"),
    ],
)
def test_both_sides_are_used_up(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(weights=_changed(tmp_path, **changes))


def test_nothing_is_filled_when_something_is_wrong(tmp_path):
    model = tiny()
    before = [np.array(numpy(w)) for w in model.weights]  # torch gives a view
    file = weights.Weights(_changed(tmp_path, norm__bias=None))
    with pytest.raises(ValueError):
        file.load(model)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)


def test_another_variant_is_named(saved, tmp_path):
    # Recognised by its widths and depths: numbers are not needed.
    state = {"stage0.patch_embed.proj.weight": np.zeros((64, 3, 7, 7), "float32")}
    for stage, (width, before, depth) in enumerate(((64, 3, 1), (192, 64, 4), (384, 192, 16))):
        kernel = np.zeros((width, before, 7 if stage == 0 else 3, 1), "float32")
        state[f"stage{stage}.patch_embed.proj.weight"] = kernel
        for block in range(depth):
            state[f"stage{stage}.blocks.{block}.norm1.bias"] = np.zeros(width, "float32")
    checkpoints.write_safetensors(tmp_path / "21.safetensors", state)
    with pytest.raises(ValueError, match="this is a CvT21.*model is a CvT13"):
        keras_cvt.CvT13(weights=tmp_path / "21.safetensors")
    with pytest.raises(ValueError, match="widths 16, 32, 64 and depths 1, 2, 3.*is a CvT13"):
        keras_cvt.CvT13(weights=saved / "official.pth")


def test_channels_and_paths(saved):
    with pytest.raises(ValueError, match="images of 3 channels, the model for 1"):
        keras_cvt.CvT(TINY, classes=10, input_shape=(64, 64, 1), weights=saved / "official.pth")
    with pytest.raises(FileNotFoundError, match="nothing.keras"):
        tiny(weights="nothing.keras")
    with pytest.raises(ValueError, match="must be one of None, 'imagenet'.*Or the path of a file"):
        keras_cvt.CvT13(weights="imagnet")


def test_a_keras_model_of_something_else(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(CheckpointError, match="no checkpoint of a CvT"):
        tiny(weights=tmp_path / "other.keras")


def test_table():
    assert len({(row.model, name) for row in weights.PUBLISHED for name in row.names}) == 8
    text = weights.table()
    for row in weights.PUBLISHED:
        assert row.repo in text and str(row.top1) in text
        assert row.revision == "main" or len(row.revision) == 40
        assert (row.crop is None) == (row.image_size == 384)


@pytest.fixture
def small_variants(monkeypatch):
    """Stands in for the official configurations, which would be 80 MB to 1.1 GB each."""
    for variant in VARIANTS:
        monkeypatch.setitem(VARIANTS, variant, tuple(TINY))


@pytest.fixture
def hub_files(saved):
    """All published repositories: one has safetensors, the others torch's format."""
    files = {}
    for row in weights.PUBLISHED:
        if row.repo == "microsoft/cvt-13":
            files[row.repo, row.revision, "model.safetensors"] = (
                saved / "huggingface.safetensors"
            ).read_bytes()
        else:
            files[row.repo, row.revision, "pytorch_model.bin"] = torch_file(saved)
    return files


def torch_file(saved):
    """Hugging Face's names in torch's format: the reference's archive with its pickle renamed."""
    source = zipfile.ZipFile(saved / "official.pth")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for member in source.infolist():
            data = source.read(member)
            if member.filename.endswith("data.pkl"):
                data = _renamed(data)
            archive.writestr(member.filename, data)
    return target.getvalue()


def _renamed(pickle):
    """The pickle with its keys, which are short unicode strings, under Hugging Face's names."""
    for name in sorted(reference_models.state_dict("tiny"), key=len, reverse=True):
        new = names.huggingface(name)
        old_bytes = b"X" + len(name).to_bytes(4, "little") + name.encode()
        assert old_bytes in pickle
        pickle = pickle.replace(old_bytes, b"X" + len(new).to_bytes(4, "little") + new.encode())
    return pickle


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A fresh HF_HOME. huggingface_hub reads its environment once, when it is imported."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return tmp_path / "hub"


def use_hub(monkeypatch, hub):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )


def logits_of(model_name, name):
    model = getattr(keras_cvt, model_name)(
        weights=name, classes=10, classifier_activation=None, input_shape=(None, None, 3)
    )
    return numpy(model(reference_models.images("odd")))


def test_every_published_name_loads(hub_files, small_variants, cache, monkeypatch):
    official = reference_models.outputs("tiny")["odd_logits"]
    with Hub(hub_files) as hub:
        use_hub(monkeypatch, hub)
        for row in weights.PUBLISHED:
            for name in row.names:
                assert np.abs(logits_of(row.model, name) - official).max() < 1e-4
        # Safetensors where there are any, at the pinned revision; and nothing twice.
        got = [path for method, path, _ in hub.requests if method == "GET"]
        assert len(got) == len(set(got)) == len(weights.PUBLISHED)
        assert f"/microsoft/cvt-13/resolve/{weights.PUBLISHED[0].revision}/model.safetensors" in got


def test_offline_after_a_download(hub_files, small_variants, cache, monkeypatch):
    import huggingface_hub.constants as constants

    with Hub(hub_files) as hub:
        use_hub(monkeypatch, hub)
        first = logits_of("CvT13", "imagenet"), logits_of("CvT21", "imagenet")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = logits_of("CvT13", "imagenet"), logits_of("CvT21", "imagenet")
    np.testing.assert_array_equal(first, again)
    with pytest.raises(weights.DownloadError, match="weights='FILE'"):
        logits_of("CvT13", "imagenet-384")


def test_a_cut_connection_resumes(hub_files, small_variants, cache, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)
    with Hub(hub_files) as hub:
        use_hub(monkeypatch, hub)
        hub.cut = 200_000
        logits = logits_of("CvT13", "imagenet")
        ranges = [r for method, _, r in hub.requests if method == "GET"]
    assert len(ranges) == 2 and ranges[1] == "bytes=200000-"
    assert np.abs(logits - reference_models.outputs("tiny")["odd_logits"]).max() < 1e-4


@pytest.mark.parametrize("damage", ["truncated", "flipped", "page"])
def test_a_damaged_file_is_refused_and_removed(
    hub_files, small_variants, cache, monkeypatch, damage
):
    key = next(k for k in hub_files if k[0] == "microsoft/cvt-21")
    good = hub_files[key]
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    hub_files[key] = {
        "truncated": good[: len(good) // 2],
        "flipped": bytes(flipped),
        "page": b"<!DOCTYPE html><html>maintenance</html>",
    }[damage]
    with Hub(hub_files) as hub:
        use_hub(monkeypatch, hub)
        with pytest.raises(CheckpointError, match="damaged and has been deleted; try again"):
            logits_of("CvT21", "imagenet")
        assert not [p for p in cache.glob("models--*/blobs/*") if p.stat().st_size]
        assert not [p for p in cache.glob("models--*/snapshots/*/*")]
        hub_files[key] = good
        logits = logits_of("CvT21", "imagenet")
    assert np.abs(logits - reference_models.outputs("tiny")["odd_logits"]).max() < 1e-4


def test_what_the_hub_does_not_have(hub_files, small_variants, cache, monkeypatch):
    with Hub({}) as hub:
        use_hub(monkeypatch, hub)
        with pytest.raises(weights.DownloadError) as caught:
            logits_of("CvT13", "imagenet")
    text = str(caught.value)
    for part in ("microsoft/cvt-13", "model.safetensors", "HF_ENDPOINT", "weights=None", hub.url):
        assert part in text, part


def test_no_network_and_the_environment(saved, hub_files, tmp_path):
    """In a process of its own, with nothing but environment variables."""
    program = textwrap.dedent(
        """
        import sys, keras_cvt
        from keras_cvt.architecture import VARIANTS
        sys.path.insert(0, sys.argv[1])
        import reference_models
        VARIANTS["CvT13"] = tuple(reference_models.stages("tiny"))
        try:
            keras_cvt.CvT13(classes=10)
        except keras_cvt.weights.DownloadError as error:
            print("refused:", error)
        else:
            print("loaded")
        """
    )

    def run(**environment):
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), **environment}
        result = subprocess.run(
            [sys.executable, "-c", program, os.path.dirname(reference_models.__file__)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout

    assert "refused" in run(HF_HUB_OFFLINE="1")
    with Hub(hub_files) as hub:
        assert run(HF_ENDPOINT=hub.url).strip() == "loaded"
    assert (tmp_path / "home" / "hub" / "models--microsoft--cvt-13").is_dir()
    assert run(HF_HUB_OFFLINE="1").strip() == "loaded"
