"""What the comparisons share (benchmarks/measure.py), and that they say what is wrong."""

import json
import sys

import pytest

from benchmarks import export, inference, measure, picture, predict, scale_out, training
from benchmarks.contenders import CONTENDERS, TORCH_EAGER, Job


class Measured:
    """A contender that has had its turns."""

    def __init__(self, name, rates, bytes=0):
        self.job, self.rates, self.bytes = Job("inference", name, 2), rates, bytes


def test_ratios_are_those_of_the_same_round():
    # The machine is twice as slow in the second round: neither is faster for it.
    figures = measure.summarize(
        [Measured(TORCH_EAGER, [10, 5, 10]), Measured("CvT13, graph", [20, 10, 30], 8)], TORCH_EAGER
    )
    assert figures[TORCH_EAGER]["ratio"] == 1
    row = figures["CvT13, graph"]
    assert (row["ratio"], row["images_per_second"], row["bytes_per_image"]) == (2, 20, 4)
    assert row["ratio_of_best"] == 3
    assert "| CvT13, graph | 20.0 | 2.00 | 2.00-3.00 | 30.0 | 3.00 |" in measure.table(
        "batch 2", "PyTorch eager", figures
    )


def test_every_task_has_what_it_is_compared_with():
    for contenders in CONTENDERS.values():
        assert TORCH_EAGER in contenders
        assert {environment for environment, _ in contenders.values()} <= set(measure.ENVIRONMENTS)


def test_exponents():
    rows = [(n, 3 * n**1.5, 7 * n) for n in (1, 4, 9)]
    assert inference.exponent(rows, 1) == pytest.approx(1.5)
    assert inference.exponent(rows, 2) == pytest.approx(1)


def test_a_contender_takes_its_turn(monkeypatch):
    monkeypatch.setitem(measure.ENVIRONMENTS, "tensorflow", sys.prefix)
    (found,) = measure.take_turns([Job("inference", "CvT13, graph", 2, 32)], 3, 0.01)
    assert len(found.rates) == 3 and min(found.rates) > 0
    assert found.bytes > 0 and "tensorflow" in found.facts
    assert found.process.poll() is not None
    # One that its own process does not know.
    monkeypatch.setitem(CONTENDERS["inference"], "none", ("tensorflow", None))
    with pytest.raises(measure.BenchmarkError, match="'none' ended with status 1. To see"):
        measure.take_turns([Job("inference", "none", 2, 32)], 3, 0.01)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (inference, ["--rounds", "2"], "--rounds: must be an integer, at least 3. Received '2'."),
        (inference, ["--only", "ResNet51"], "invalid choice: 'ResNet51'"),
        (inference, ["--sizes", "64", "64"], "--sizes must be two or more different ones"),
        (predict, ["--rounds", "2"], "--rounds: must be an integer, at least 3. Received '2'."),
        (scale_out, ["--images", "1"], "--images: must be an integer, at least 64. Received '1'."),
        (training, ["--batch", "0"], "--batch: must be an integer, at least 1. Received '0'."),
        (training, ["--seconds", "0"], "--seconds: must be a number, above 0. Received '0'."),
        (picture, ["a.json", "--output", "none/a.png"], "/none to write a.png in"),
    ],
)
def test_wrong_arguments(command, arguments, message, capsys):
    assert command.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{command.__name__}: error: ") and error.count("\n") == 1
    assert message in error


def test_what_an_export_lacks_is_told_before_the_work(tmp_path, capsys, monkeypatch):
    run = ["--run-dir", str(tmp_path)]
    assert export.main([*run, "--cvt13-weights", str(tmp_path / "none.keras")]) == 2
    assert "error: There is no file" in capsys.readouterr().err
    assert export.main([*run, "--cvt13-weights", "imagenet-38"]) == 2
    assert "'imagenet-384'" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export.main(run) == 2
    assert "pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_missing_environments_are_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(measure.ENVIRONMENTS, "torch", tmp_path)
    for command in (inference, training):
        assert command.main(["--json", str(tmp_path / "figures.json")]) == 2
        assert "`make peers` makes all environments" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_picture(tmp_path, capsys):
    figures = measure.summarize(
        [Measured(TORCH_EAGER, [10, 5, 10]), Measured("CvT13, graph", [20, 10, 30])], TORCH_EAGER
    )
    report = {"task": "inference", "tables": {"batch 2": figures}, "machine": measure.machine()}
    path, output = tmp_path / "figures.json", tmp_path / "speed.png"
    path.write_text(json.dumps(report))
    assert picture.main([str(path), "--output", str(output)]) == 0
    assert output.read_bytes().startswith(b"\x89PNG")
    path.write_text("{}")
    assert picture.main([str(path), "--output", str(tmp_path / "other.png")]) == 2
    assert "not what --json writes" in capsys.readouterr().err
    assert not (tmp_path / "other.png").exists()


def test_the_ways_to_predict_take_turns(capsys):
    begun = []
    contenders = {name: lambda name=name: begun.append(name) for name in (predict.BEFORE, "other")}
    rates = predict.take_turns(contenders, 10, 3)
    assert begun[:2] == begun[2:4][::-1] and len(begun) == 8
    assert [len(found) for found in rates.values()] == [3, 3]
    said = predict.table(512, {predict.BEFORE: [1.0, 2.0, 4.0], "other": [2.0, 6.0, 4.0]})
    assert "| other | 4.0 | 2.00 | 1.00-3.00 |" in said
