"""load_image: pictures from a web server."""

import http.server
import pathlib
import threading

import numpy as np
import pytest
from pictures import encode, pixels
from programs import PATIENCE

from keras_cvt.imagenet import (
    ImageError,
    load_image,
)


@pytest.fixture(scope="module")
def server(small):
    """A web server on this machine, with good and bad habits; yields the root of its URLs."""
    picture = encode(small)
    closing = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def start(self, length=None, status=200, **headers):
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

        def do_GET(self):
            if self.path == "/cat.png":
                self.start(len(picture))
                self.wfile.write(picture)
            elif self.path == "/no-length.png":
                self.start()
                self.wfile.write(picture)
            elif self.path == "/held.png":  # the connection stays open behind the picture
                self.start(len(picture))
                self.wfile.write(picture)
                closing.wait()
            elif self.path == "/moved.png":
                self.start(0, status=302, Location="/cat.png")
            elif self.path == "/to-a-file.png":
                self.start(0, status=302, Location=pathlib.Path(__file__).as_uri())
            elif self.path == "/page.png":
                self.start()
                self.wfile.write(b"<html>Please log in</html>")
            elif self.path == "/empty.png":
                self.start(0)
            elif self.path == "/cut.png":
                self.start(len(picture))
                self.wfile.write(picture[:100])
            elif self.path == "/announced.png":
                self.start(10**12)
            elif self.path == "/endless.png":
                self.start()
                try:
                    while not closing.is_set():
                        self.wfile.write(bytes(2**12))
                except OSError:
                    pass
            elif self.path == "/silent.png":
                closing.wait()
            elif self.path == "/drip.png":
                self.start(20_000)  # it takes 400 s
                try:
                    while not closing.wait(0.02):
                        self.wfile.write(b"x")
                except OSError:
                    pass
            else:
                self.send_error(404)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    closing.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("page", ["cat.png", "no-length.png", "held.png", "moved.png"])
def test_url(server, small, page):
    np.testing.assert_array_equal(pixels(f"{server}/{page}", small), small)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("missing.png", "404 Not Found"),
        ("to-a-file.png", "302"),
        ("page.png", "not an image"),
        ("empty.png", "empty"),
        ("cut.png", r"ended after 100 of \d+ bytes"),
        ("announced.png", "larger than max_bytes=20000"),
        ("endless.png", "larger than max_bytes=20000"),
        ("silent.png", r"not complete within 0\.4 s"),
        ("drip.png", r"not complete within 0\.4 s"),
        ("a cat.png", "cannot be downloaded"),
    ],
)
def test_bad_url_is_named(server, page, message):
    url = f"{server}/{page}"
    # Only what would never end gets little time, so that a busy machine changes nothing.
    timeout = 0.4 if page in ("silent.png", "drip.png") else PATIENCE
    with pytest.raises(ImageError, match=message) as caught:
        load_image(url, timeout=timeout, max_bytes=20_000)
    assert url in str(caught.value)


@pytest.mark.usefixtures("no_proxy")
def test_max_bytes_is_inclusive(server, small):
    size = len(encode(small))
    load_image(f"{server}/cat.png", max_bytes=size)
    for page in ("cat.png", "no-length.png"):
        with pytest.raises(ImageError, match="larger than"):
            load_image(f"{server}/{page}", max_bytes=size - 1)


@pytest.mark.usefixtures("no_proxy")
def test_url_of_nobody():
    with http.server.HTTPServer(("127.0.0.1", 0), None) as unused:
        port = unused.server_port
    url = f"http://127.0.0.1:{port}/cat.png"
    with pytest.raises(ImageError, match="cannot be downloaded.*refused") as caught:
        load_image(url)
    assert url in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/cat.png",
        "s3://bucket/cat.png",
        "file://cat.png",
        "data:image/png;base64,",
    ],
)
def test_scheme_that_is_not_supported(url):
    with pytest.raises(ValueError, match="must begin with http") as caught:
        load_image(url)
    assert url in str(caught.value)


def test_a_data_url_is_not_repeated():
    with pytest.raises(ValueError, match="give the bytes") as caught:
        load_image("data:image/png;base64," + 5000 * "A")
    assert len(str(caught.value)) < 200
