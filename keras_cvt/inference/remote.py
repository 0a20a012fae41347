"""Files behind the URLs of pyarrow's file systems, such as s3:// and gs://, and of this machine."""

from __future__ import annotations

import functools
import re
import urllib.parse
from typing import TYPE_CHECKING

from keras_cvt._messages import one_line

if TYPE_CHECKING:
    import pyarrow.fs

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_READ_ELSEWHERE = ("http", "https", "file")  # by `keras_cvt.images.load`


def is_remote(source: str) -> bool:
    """Whether a source is a URL that pyarrow's file systems read."""
    found = _SCHEME.match(source)
    return found is not None and found[1].lower() not in _READ_ELSEWHERE


def file_system(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a URL, and the path there; of other paths, this machine's.

    Raises:
        OSError: If there is none, as for a bucket that is not there. The message is one line.
        ModuleNotFoundError: If pyarrow is not installed.
    """
    from pyarrow import fs

    found = _SCHEME.match(url)
    if found is None:
        return fs.LocalFileSystem(), url
    if found[1].lower() == "file":
        return fs.LocalFileSystem(), urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    root = found[0] + url[found.end() :].split("/")[0]
    try:
        # A FileSystem of a bucket asks the network for its region: once is enough.
        system, path = _root(root)
    except (OSError, ValueError, ImportError) as error:
        raise OSError(f"{url} can't be reached: {one_line(error)}") from error
    return system, f"{path.rstrip('/')}/{url[len(root) :].lstrip('/')}".removesuffix("/")


@functools.cache
def _root(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    from pyarrow import fs

    return fs.FileSystem.from_uri(url if url.split("://", 1)[1] else f"{url}/")


def read(url: str) -> bytes:
    """The content of a remote file.

    Raises:
        OSError: If it can't be read. The message begins with the URL.
    """
    system, path = file_system(url)
    try:
        with system.open_input_stream(path) as stream:
            return stream.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{url}: there is no such file") from None
    except OSError as error:
        raise OSError(f"{url}: cannot be read: {one_line(error)}") from error
