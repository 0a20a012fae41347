"""Published weights, downloaded from a hub on loopback (keras_cvt/weights/downloads.py)."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest
import reference_models
from backend import numpy
from hub import Hub
from reference_models import TINY

import keras_cvt
from keras_cvt import weights
from keras_cvt.architecture import VARIANTS
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.weights import downloads, names


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
    import huggingface_hub.file_download as file_download

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (constants, file_download):  # up to 0.34, the latter has a copy
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


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
        try:
            logits = logits_of("CvT13", "imagenet")
        except weights.DownloadError:  # before 1.0, the client leaves trying again to its caller
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


# --- what is recorded of a download --------------------------------------------------------------


def record_of(cache, repo):
    (file,) = cache.glob(f"models--{repo.replace('/', '--')}/{downloads.RECORD}")
    return json.loads(file.read_text())[repo]


def test_commits_and_digests_are_recorded(hub_files, small_variants, cache, monkeypatch, caplog):
    with Hub(hub_files) as hub:
        use_hub(monkeypatch, hub)
        for _ in range(2):
            logits_of("CvT13", "imagenet")
            logits_of("CvT21", "imagenet")
        head = hub.commits["microsoft/cvt-21"]
    pinned, floating = weights.PUBLISHED[0], weights.PUBLISHED[3]
    for row, file, commit in (
        (pinned, "model.safetensors", pinned.revision),
        (floating, "pytorch_model.bin", head),
    ):
        digest = hashlib.sha256(hub_files[row.repo, row.revision, file]).hexdigest()
        expected = {"commit": commit, "file": file, "sha256": digest}
        assert record_of(cache, row.repo) == [expected]
    assert caplog.text == ""


def test_other_content_is_told(hub_files, small_variants, cache, monkeypatch, caplog):
    key = next(k for k in hub_files if k[0] == "microsoft/cvt-21")
    old = hub_files[key]
    with Hub(hub_files) as hub, caplog.at_level(logging.WARNING, "keras_cvt"):
        use_hub(monkeypatch, hub)
        first = logits_of("CvT21", "imagenet")
        hub.commits[key[0]] = "a" * 40  # such as a change of the README
        logits_of("CvT21", "imagenet")
        assert caplog.text == "" and len(record_of(cache, key[0])) == 2
        hub.commits[key[0]] = "b" * 40
        hub_files[key] = other_weights(old)
        changed = logits_of("CvT21", "imagenet")
        digests = [hashlib.sha256(data).hexdigest() for data in (old, hub_files[key])]
        (record,) = caplog.records
        for part in ("'imagenet' of CvT21", "b" * 40, "a" * 40, *digests):
            assert part in record.getMessage()
        logits_of("CvT21", "imagenet")
        assert len(caplog.records) == 1  # told once
    assert np.abs(first - changed).max() > 1e-3
    assert [version["sha256"] for version in record_of(cache, key[0])] == [digests[0], *digests]
    kept = record.getMessage().rpartition(" ")[2]
    model = keras_cvt.CvT21(
        weights=kept, classes=10, classifier_activation=None, input_shape=(None, None, 3)
    )
    np.testing.assert_array_equal(numpy(model(reference_models.images("odd"))), first)


def other_weights(archive):
    """The same archive with another weight somewhere, and right checksums."""
    source, target = zipfile.ZipFile(io.BytesIO(archive)), io.BytesIO()
    with zipfile.ZipFile(target, "w") as changed:
        for member in source.infolist():
            data = source.read(member)
            if member.filename.rpartition("/")[2] == "0":
                data = np.negative(np.frombuffer(data, "float32")).tobytes()
            changed.writestr(member.filename, data)
    return target.getvalue()


def test_cached_content_is_verified(hub_files, small_variants, cache, monkeypatch):
    """Safetensors have no checksum of their own: a changed bit would load."""
    with Hub(hub_files) as hub:
        use_hub(monkeypatch, hub)
        first = logits_of("CvT13", "imagenet")
        (blob,) = cache.glob("models--microsoft--cvt-13/blobs/*")
        data = bytearray(blob.read_bytes())
        data[-5] ^= 64
        blob.write_bytes(data)
        with pytest.raises(CheckpointError, match="damaged and has been deleted.*SHA-256.*not"):
            logits_of("CvT13", "imagenet")
        np.testing.assert_array_equal(logits_of("CvT13", "imagenet"), first)


def test_what_the_cache_does_not_have_is_kept(
    hub_files, small_variants, cache, tmp_path, monkeypatch, saved
):
    """A file from elsewhere, or another commit's, is never deleted."""
    import huggingface_hub

    own = tmp_path / "elsewhere" / "model.safetensors"
    other = tmp_path / "snapshots" / ("a" * 40) / "model.safetensors"
    for file in (own, other):
        file.parent.mkdir(parents=True)
        file.write_bytes((saved / "huggingface.safetensors").read_bytes())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **options: str(own))
    logits_of("CvT13", "imagenet")
    assert own.is_file() and not list(tmp_path.rglob(downloads.RECORD))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **options: str(other))
    with pytest.raises(CheckpointError, match=f"of the commit {'a' * 40}, not of 84e365a5f6a5"):
        logits_of("CvT13", "imagenet")
    assert other.is_file()


def test_a_record_that_cannot_be_used(hub_files, small_variants, cache, monkeypatch, caplog):
    with Hub(hub_files) as hub:
        use_hub(monkeypatch, hub)
        logits_of("CvT13", "imagenet")
        expected = record_of(cache, "microsoft/cvt-13")
        (file,) = cache.glob(f"models--*/{downloads.RECORD}")
        for text in ("{", "[]", '{"microsoft/cvt-13": [{}]}'):
            file.write_text(text)
            logits_of("CvT13", "imagenet")
            assert record_of(cache, "microsoft/cvt-13") == expected
        assert caplog.text.count("is written anew") == 3
        monkeypatch.setattr(downloads, "write_json", _no_room)
        file.unlink()
        logits_of("CvT13", "imagenet")
        assert not file.exists()


def _no_room(*args):
    raise OSError(30, "Read-only file system")
