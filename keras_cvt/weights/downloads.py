"""Published weights from the Hugging Face hub, and a record of what was downloaded."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from keras_cvt._files import read_json, write_json
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.weights.published import Published

logger = logging.getLogger("keras_cvt")

# In this order: a repository that has the first is read from it.
_FILES = ("model.safetensors", "pytorch_model.bin")

RECORD = "keras_cvt.json"
"""The name of the record, in the folder that the hub's cache has for a repository."""


class DownloadError(OSError):
    """Published weights that could not be had."""


def download(source: Published) -> Path:
    """Published weights as a file in the hub's cache, downloaded where it is not there yet.

    The content is compared with its SHA-256, which the hub tells and its cache has as the file's name.
    A record beside the cached files has the commit and the SHA-256 of each version that was had, and
    the log warns when a later download has other content.

    Raises:
        DownloadError: If they can't be had.
        CheckpointError: If the content is damaged; it is deleted.
    """
    path = _cached(source)
    commit, snapshots = path.parent.name, path.parent.parent
    if snapshots.name != "snapshots":  # not laid out as the hub's client does it: nothing is known
        return path
    digest, blob = _sha256(path), path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob) and blob != digest:
        raise damaged(path, CheckpointError(f"{path} has the SHA-256 {digest}, not {blob}"))
    if _is_commit(source.revision) and commit != source.revision:
        raise CheckpointError(f"{path} is of the commit {commit}, not of {source.revision}.")
    _record(source, path, digest)
    return path


def damaged(path: Path, error: CheckpointError) -> CheckpointError:
    """Deletes a damaged download, so that it is downloaded anew; the error that says so."""
    # The hub's cache keeps the data apart, and a link to it under the file's name.
    for each in {path.resolve(), path}:
        each.unlink(missing_ok=True)
    return CheckpointError(f"The download was damaged and has been deleted; try again. {error}")


def _cached(source: Published) -> Path:
    # Imported late: it takes longer than the rest of this package.
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reasons = []
    offline = False
    for file in _FILES:
        try:
            return Path(
                huggingface_hub.hf_hub_download(
                    source.repo, file, revision=source.revision, local_files_only=offline
                )
            )
        except EntryNotFoundError as error:
            reasons.append(f"{file}: {error}")
            # Without a network, the client has retried for a while; the cache may have the other.
            offline = isinstance(error, LocalEntryNotFoundError)
        except Exception as error:  # whatever the HTTP library below the hub's client raises
            reasons.append(f"{file}: {error}")
            break
    reasons = "\n  ".join(reasons)
    raise DownloadError(
        f"The weights {source.names[0]!r} of {source.model} could not be had from {source.repo} at "
        f"revision {source.revision} of {huggingface_hub.constants.ENDPOINT}:\n  {reasons}\n"
        "Without a network, copy the hub's cache from a machine that has it (HF_HOME says where it "
        "is), or give the path of a checkpoint: weights='FILE'. Where the hub can't be reached, "
        "HF_ENDPOINT names a mirror. weights=None makes a model with random weights."
    )


def _is_commit(revision: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(source: Published, path: Path, digest: str) -> None:
    """Notes the commit and the content of a download; warns if the last one had other content."""
    commit = path.parent.name
    record = path.parent.parent.parent / RECORD  # snapshots / commit / file
    versions = _versions(record)
    had = versions.setdefault(source.repo, [])
    if had and had[-1]["sha256"] != digest:
        logger.warning(
            "The weights %r of %s are not those of the last time: %s at %s is now the commit %s (%s, "
            "SHA-256 %s); it was %s (%s, SHA-256 %s). For the old ones, give their path: %s",
            source.names[0],
            source.model,
            source.repo,
            source.revision,
            commit,
            path.name,
            digest,
            had[-1]["commit"],
            had[-1]["file"],
            had[-1]["sha256"],
            path.parent.parent / had[-1]["commit"] / had[-1]["file"],
        )
    version = {"commit": commit, "file": path.name, "sha256": digest}
    if had and had[-1] == version:
        return
    had.append(version)
    try:
        write_json(record, versions)
    except OSError as error:  # a cache that others share may be for reading only
        logger.info("%s can't be written: %s", record, error)


def _versions(record: Path) -> dict[str, list[dict[str, str]]]:
    try:
        versions = read_json(record)
        for each in (version for had in versions.values() for version in had):
            each["commit"], each["file"], each["sha256"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        logger.warning("%s can't be read, and is written anew: %s", record, error)
        return {}
    return versions
