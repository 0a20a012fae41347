"""Several runs side by side (training/compare.py)."""

import csv
import json
import re

from matplotlib.figure import Figure
from PIL import Image

from training import compare, configs
from training.config import override


def run(folder, epochs=3, finished=True, **settings):
    """A folder as `training.train` leaves it."""
    folder.mkdir()
    config = override(configs.load("digits"), [f"{k}={v}" for k, v in settings.items()])
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    names = [*compare.RESULTS, "top1", "learning_rate", "seconds"]
    with open(folder / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for i in range(epochs):
            row = {name: 1 / (i + 2) for name in names} | {
                "epoch": i + 1,
                "val_top1": 0.9 + i / 100,
            }
            writer.writerow(row)
    if finished:
        (folder / "report.json").write_text("{}")
    return folder


def test_what_differs_and_only_that(tmp_path, capsys):
    one = run(tmp_path / "one")
    two = run(tmp_path / "two", epochs=2, finished=False, learning_rate=0.5, dims="16,64,128")
    output = tmp_path / "runs.png"
    assert compare.main([str(one), str(two), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    rows = [re.split(r"\s{2,}", line) for line in said.splitlines()]
    assert ["", str(one), str(two)] in rows
    assert ["learning_rate", "0.001", "0.5"] in rows
    assert ["dims", "32,64,128", "16,64,128"] in rows
    assert ["epoch", "3", "2"] in rows and ["val_top1", "92.00%", "91.00%"] in rows
    assert ["finished", "yes", "no"] in rows
    assert "weight_decay" not in said and f"{output}: their curves." in said
    with Image.open(output) as picture:
        assert picture.format == "PNG" and picture.width > 1000

    assert compare.main([str(one), "--output", str(tmp_path / "runs.svg")]) == 0
    assert "learning_rate" not in capsys.readouterr().out


def test_the_picture_has_every_run(tmp_path, monkeypatch):
    folders = [run(tmp_path / "one"), run(tmp_path / "two", epochs=2)]
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    compare.compare(folders, tmp_path / "a.png")
    loss, accuracy, rate = drawn[0].axes
    assert [len(line.get_xdata()) for line in rate.lines] == [3, 2]
    for axes in (loss, accuracy):
        assert [len(line.get_xdata()) for line in axes.lines] == [3, 3, 2, 2]
    names = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert names == [str(folder) for folder in folders]


def test_equal_runs(tmp_path, capsys):
    folders = [str(run(tmp_path / name)) for name in "ab"]
    assert compare.main([*folders, "--output", str(tmp_path / "a.png")]) == 0
    assert re.search(r"settings +the same +the same", capsys.readouterr().out)


def test_wrong_use(tmp_path, capsys):
    good, output = str(run(tmp_path / "good")), str(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    broken = run(tmp_path / "broken")
    (broken / "history.csv").write_text("epoch,loss\n1,many\n")
    short = run(tmp_path / "short")
    (short / "history.csv").write_text("epoch,loss\n1,2\n")
    new = run(tmp_path / "new")
    (new / "history.csv").unlink()
    none = run(tmp_path / "none", epochs=0)
    for arguments, message in (
        ([str(tmp_path / "empty"), "--output", output], "empty is no folder of a run: "),
        ([good, str(tmp_path / "gone"), "--output", output], "gone is no folder of a run"),
        ([str(broken), "--output", output], "could not convert string to float: 'many'"),
        ([str(short), "--output", output], "history.csv has no"),
        ([str(new), "--output", output], "error: The run in"),
        ([str(none), "--output", output], "error: The run in"),
        ([good, good, "--output", output], "given once"),
        ([good], "required: --output"),
        ([good, "--output", str(tmp_path / "a.txt")], "must end in .png"),
        ([good, "--output", str(tmp_path / "no" / "a.png")], "There is no folder"),
    ):
        assert compare.main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert error.startswith("training.compare: error: ")
    assert not (tmp_path / "a.png").exists()
