"""Decoding ahead in threads (keras_cvt/inference/decoding.py)."""

import itertools
import threading

import numpy as np
import pytest
from PIL import Image

from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.inference.answers import answer_files
from keras_cvt.inference.decoding import decode, map_ahead
from keras_cvt.inference.runtimes import Runtime


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name == "decoding"]


def ended(threads):
    for thread in threads:
        thread.join(timeout=60)
    return not any(thread.is_alive() for thread in threads)


def test_results_are_in_order_whichever_is_ready_first():
    later = threading.Event()

    def double(number):
        if number == 0:  # the first waits for the second
            assert later.wait(timeout=60)
        if number == 1:
            later.set()
        return 2 * number

    assert list(map_ahead(double, range(50), threads=2, ahead=4)) == list(range(0, 100, 2))


def test_no_more_is_begun_than_may_wait():
    begun = []
    results = map_ahead(begun.append, itertools.count(), threads=3, ahead=5)
    for taken in range(1, 4):
        next(results)
        assert len(begun) <= 5 + taken - 1
    threads = decoding_threads()
    results.close()
    assert ended(threads)


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_an_error_comes_where_its_result_would(error):
    def fail_at_3(number):
        if number == 3:
            raise error
        return number

    results = map_ahead(fail_at_3, range(100), threads=2, ahead=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    threads = decoding_threads()
    with pytest.raises(type(error)):
        next(results)
    assert ended(threads)


def test_an_interruption_does_not_wait_for_a_picture():
    """Ctrl-C while a slow server sends a picture: the thread that reads it is not waited for."""
    forever = threading.Event()
    results = map_ahead(lambda n: n or forever.wait(timeout=60), [1, 0, 0], threads=2, ahead=3)
    assert next(results) == 1
    results.close()
    assert not forever.is_set()
    forever.set()
    assert ended(decoding_threads())


def test_what_is_wrong_with_a_picture_is_told(tmp_path):
    path = tmp_path / "no.jpg"
    path.write_bytes(b"nothing")
    size = Preprocessing(8)
    for source, content in ((str(path), None), ("s3://b/no.jpg", b"nothing")):
        found = decode(source, size, content)
        assert found.image is None
        assert found.error.startswith(f"{source}: not an image") and found.error.count(":") < 3
    assert "none.jpg" in decode(str(tmp_path / "none.jpg"), size).error


@pytest.mark.parametrize("fixed", [None, 1, 3])
def test_answers_belong_to_their_pictures(tmp_path, fixed):
    """Gray pictures, each of its own brightness, with broken ones between them."""
    sources = []
    for number in range(11):
        path = tmp_path / f"{number}.png"
        if number % 4 == 2:
            path.write_bytes(b"")
        else:
            Image.new("RGB", (9, 9), (number * 20,) * 3).save(path)
        sources.append(str(path))
    counts = []

    def mean(images):
        counts.append(len(images))
        return images.mean(axis=(1, 2))[:, :1]

    size = Preprocessing(8, None, (0.0,) * 3, (1 / 255,) * 3)
    answers = list(answer_files(sources, size, Runtime(mean, fixed), batch_size=4, threads=2))
    assert [answer.source for answer in answers] == sources
    for number, answer in enumerate(answers):
        if number % 4 == 2:
            assert answer.values is None and "empty, 0 bytes" in answer.error
        else:
            np.testing.assert_allclose(answer.values, [number * 20], atol=1)
    assert set(counts) == {fixed or 4}
