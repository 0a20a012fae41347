"""Answers in Parquet parts, and jobs that go on (keras_cvt/inference/parts.py, jobs.py, listing.py)."""

import errno
import os
from pathlib import Path

import memory
import pytest
from PIL import Image

from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.inference import parts as parts_module
from keras_cvt.inference.jobs import run_locally
from keras_cvt.inference.listing import find_images
from keras_cvt.inference.parts import OutputError, Parts, chunk_size
from keras_cvt.inference.runtimes import Runtime
from keras_cvt.inference.tasks import Embed, Predict, Work

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PIXELS = Preprocessing(8, None, (0.0,) * 3, (1 / 255,) * 3)


@pytest.fixture
def sources(tmp_path):
    """Gray pictures, the 7th broken, and the last one missing."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    paths = [folder / f"{number:02}.png" for number in range(11)]
    for number, path in enumerate(paths[:-1]):
        Image.new("RGB", (9, 9), (number * 20,) * 3).save(path)
    paths[6].write_bytes(b"broken")
    return [str(path) for path in paths]


def means(counted):
    """A model that answers with the brightness, as so many probabilities of two classes."""

    def run(images):
        counted.append(len(images))
        bright = images.mean(axis=(1, 2))[:, :1] / 255
        return [[1 - float(b), float(b)] for (b,) in bright]

    return Runtime(run)


def predicting(counted=None, top=2):
    labels = (("0", "dark"), ("1", "bright"))
    return Work(Predict(PIXELS, labels, top), "keras", means([] if counted is None else counted))


def finish(work, parts, sources):
    parts.begin(sources, work.options(), 2, chunk=4)
    return list(run_locally(work, parts, batch_size=2))


def urls(tmp_path):
    return [str(tmp_path / "answers"), f"fsspec+file://{tmp_path}/answers"]


@pytest.mark.parametrize("place", [0, 1])
def test_a_row_for_each_input(tmp_path, sources, place):
    """In a local folder, and behind a URL of another file system."""
    done = finish(predicting(), Parts(urls(tmp_path)[place]), sources)
    assert [(d.chunk, d.images, d.errors) for d in done] == [(0, 4, 0), (1, 4, 1), (2, 3, 1)]
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == [
        "_plan.parquet",
        *(f"part-00000{number}.parquet" for number in range(3)),
    ]
    table = parquet.read_table(tmp_path / "answers")  # passes over the plan
    assert table.column("path").to_pylist() == sources
    assert table.schema.names == ["path", "ids", "labels", "scores", "error"]
    rows = table.to_pylist()
    assert rows[9]["labels"] == ["bright", "dark"] and rows[9]["ids"] == ["1", "0"]
    assert rows[9]["scores"] == pytest.approx([180 / 255, 75 / 255], abs=0.01)
    assert rows[0]["labels"] == ["dark", "bright"] and rows[0]["error"] is None
    assert rows[6]["scores"] is None and "06.png: not an image" in rows[6]["error"]
    assert "10.png" in rows[10]["error"]


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_written_is_not_computed_again(tmp_path, sources, place):
    parts = Parts(urls(tmp_path)[place])
    parts.begin(sources, predicting().options(), 2, chunk=4)
    running = run_locally(predicting(), parts, 2)
    next(running)
    running.close()  # the driver is gone
    first = tmp_path / "answers" / "part-000000.parquet"
    before = first.stat().st_mtime_ns
    counted = []
    again = Parts(parts.url)
    assert [d.chunk for d in finish(predicting(counted), again, sources)] == [1, 2]
    assert sum(counted) == 6 and first.stat().st_mtime_ns == before
    assert finish(predicting(), Parts(parts.url), sources) == []
    assert again.errors(range(3)) == 2
    assert parquet.read_table(tmp_path / "answers").column("path").to_pylist() == sources


def test_an_embedding_is_a_list_of_fixed_size(tmp_path, sources):
    work = Work(Embed(PIXELS, 2), "keras", means([]))
    finish(work, Parts(str(tmp_path / "answers")), sources)
    table = parquet.read_table(tmp_path / "answers")
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 2)
    rows = table.column("embedding").to_pylist()
    assert rows[3] == pytest.approx([1 - 60 / 255, 60 / 255], abs=0.01)
    assert rows[6] is None and rows[10] is None


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path, sources):
    """Twenty times as many images, hard links of ten, take some megabytes more: their paths."""
    peaks = []
    for count in (1_000, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(sources[number % 10], folder / f"{number:06}.png")
        with memory.peak() as peak:
            links = find_images([folder]).images
            parts = Parts(str(tmp_path / f"answers-{count}"))
            parts.begin(links, predicting().options(), 8)
            assert sum(done.images for done in run_locally(predicting(), parts, 8)) == count
        peaks.append(peak.bytes)
    assert peaks[1] < peaks[0] + 40 * 2**20


def test_other_inputs_or_options_are_refused(tmp_path, sources):
    parts = Parts(str(tmp_path / "answers"))
    finish(predicting(), parts, sources)
    for work, inputs, message in (
        (predicting(top=1), sources, "begun with another top: "),
        (Work(Embed(PIXELS, 2), "keras", means([])), sources, "another labels, layer, task, top"),
        (predicting(), sources[:-1], "other inputs, 11 images; now there are 10"),
        (predicting(), sources[::-1], "other inputs"),
    ):
        with pytest.raises(OutputError, match=message):
            finish(work, Parts(parts.url), inputs)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(OutputError, match="part-000000.parquet, but no plan"):
        finish(predicting(), Parts(str(tmp_path / "other")), sources)
    (tmp_path / "other" / "_plan.parquet").write_bytes(b"no plan")
    with pytest.raises(OutputError, match="is not a plan"):
        finish(predicting(), Parts(str(tmp_path / "other")), sources)


def test_a_full_disk_and_a_missing_store_are_one_line(tmp_path, sources, monkeypatch):
    with pytest.raises(OSError, match="^nowhere://bucket/a can't be reached: .*nowhere") as told:
        finish(predicting(), Parts("nowhere://bucket/a"), sources)
    assert "\n" not in str(told.value)

    parts = Parts(str(tmp_path / "answers"))
    parts.begin(sources, predicting().options(), 2, chunk=4)

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left on device: '.*part-000000.parquet'"):
            list(run_locally(predicting(), parts, 2))
    assert [path.name for path in Path(parts.url).iterdir()] == ["_plan.parquet"]
    assert len(finish(predicting(), Parts(parts.url), sources)) == 3


def test_names_that_are_no_text(tmp_path, sources):
    name = os.fsdecode(b"caf\xe9.png")
    source = str(tmp_path / name)
    try:
        os.rename(sources[3], source)
    except OSError:
        pytest.skip("names of files are text here")
    finish(predicting(), Parts(str(tmp_path / "answers")), [source])
    (row,) = parquet.read_table(tmp_path / "answers").to_pylist()
    assert row["path"].endswith("caf\\udce9.png") and row["error"] is None


def test_chunks():
    assert chunk_size(10, 8) == 64 and chunk_size(10, 48) == 96
    assert chunk_size(100_000, 8) == 1568 and chunk_size(10**8, 8) == 2048


def test_lists_and_globs(tmp_path, sources):
    folder = Path(sources[0]).parent
    (folder / "notes.doc").write_text("")
    there = sources[:-1]
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join([*sources, "", "s3://bucket/a.jpg"]))
    assert find_images([listed]).images == [*sources, "s3://bucket/a.jpg"]
    table = tmp_path / "list.parquet"
    parquet.write_table(pa.table({"n": [1, 2], "path": sources[:2]}), table)
    assert find_images([str(table), sources[3]]).images == [*sources[:2], sources[3]]
    assert find_images([f"{folder}/0[12].*"]).images == sources[1:3]
    assert find_images([f"{tmp_path}/**/*.png"]).images == there
    nothing = find_images([f"{folder}/*.gif"])
    assert nothing.images == [] and "nothing matches" in nothing.empty[f"{folder}/*.gif"]

    url = f"fsspec+file://{folder}"
    found = find_images([url])
    assert found.images == [f"{url}/{Path(path).name}" for path in there]
    assert str(found.left_out) == "1 file was left out: 1 .doc"
    assert find_images([f"{url}/0[12].*"]).images == found.images[1:3]
    assert find_images([f"{url}/05.png", f"{url}/no.png"]).images == [
        f"{url}/05.png",
        f"{url}/no.png",
    ]
    assert find_images([f"fsspec+file://{listed}"]).images == find_images([listed]).images

    for name, content, message in (
        ("a.txt", b"\n \n", "has no paths in it"),
        ("a.parquet", b"nothing", "is not a Parquet file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            find_images([tmp_path / name])
    parquet.write_table(pa.table({"file": ["a"]}), table)
    with pytest.raises(ValueError, match="must have a column 'path'. It has file."):
        find_images([table])


def test_remote_pictures_are_read(tmp_path, sources):
    folder = Path(sources[0]).parent
    urls = [f"fsspec+file://{folder}/{name}" for name in ("03.png", "06.png", "none.png")]
    finish(predicting(), Parts(str(tmp_path / "answers")), urls)
    read, broken, missing = parquet.read_table(tmp_path / "answers").to_pylist()
    assert read["labels"] == ["dark", "bright"]
    assert broken["error"].startswith(f"{urls[1]}: not an image")
    assert missing["error"] == f"{urls[2]}: there is no such file"
    assert parts_module.PLAN.startswith("_")
