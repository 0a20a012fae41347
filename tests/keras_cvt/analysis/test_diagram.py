"""The picture of an architecture says what the configuration is (keras_cvt/analysis/diagram.py)."""

import xml.etree.ElementTree as ElementTree

import pytest
import reference_models
from programs import CHECKOUT

import keras_cvt
from keras_cvt.analysis import diagram as drawing
from keras_cvt.architecture import VARIANTS
from keras_cvt.cli import main


def texts(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.text]


def test_shapes_and_multiply_adds():
    said = texts(keras_cvt.draw(VARIANTS["CvT13"], (384, 256, 3), classes=7, title="a < b"))
    assert {"a < b", "384×256×3", "96×64×64", "48×32×192", "24×16×384", "7 classes"} <= set(said)
    assert "10 CvT blocks, 6 heads" in said and "12×8 keys, MLP ×4" in said
    counted = keras_cvt.complexity(VARIANTS["CvT13"], (384, 256, 3), classes=7)
    assert f"{counted.multiply_adds / 1e9:.2f} G multiply-adds" in " ".join(said)
    # What the stages do is all but the head's work.
    shares = [float(s.rpartition("(")[2][:-2]) for s in said if s.endswith("%)")]
    assert len(shares) == 3 and abs(sum(shares) - 100) < 2


def test_every_configuration():
    for name in reference_models.NAMES:
        stages = reference_models.stages(name)
        said = texts(keras_cvt.draw(stages, (64, 64, 3), classes=3))
        head = "from the class token" if stages[-1].class_token else "from the mean of the map"
        assert head in said
    stages = [
        keras_cvt.StageConfig(8, 2, 1, stride_kv=(1, 2), mlp_ratio=(2, 3.5), projection="dw_bn"),
        *(keras_cvt.StageConfig(16, 1, 2, patch_stride=1) for _ in range(5)),
    ]
    model = keras_cvt.CvT(stages, include_top=False, input_shape=(32, 32, 1), name="six")
    said = texts(keras_cvt.draw(model))
    assert "16×16 or 8×8 keys, MLP ×2 or 3.5" in said and "Stage 6" in said and "six" in said
    assert not any("classes" in text for text in said)


def test_command(tmp_path, capsys):
    output = tmp_path / "a.svg"
    assert main(["draw", "cvt13", "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"wrote {output}\n"
    # README's picture is what the command draws.
    drawn = output.read_text(encoding="utf-8")
    assert drawn == (CHECKOUT / "docs" / "cvt13.svg").read_text(encoding="utf-8")
    spec = reference_models.FOLDER / "tiny" / "spec.json"
    assert main(["draw", str(spec), "--output", str(tmp_path / "b.svg")]) == 0
    assert main(["summary", str(spec), "--image-size", "64x96"]) == 0
    assert "64x96" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["cvt13", "--output", "a.png"], "must end in .svg"),
        (["cvt13", "--output", "no/a.svg"], "no folder"),
        (["cvt13", "--output", "there.svg"], "there.svg exists and is kept"),
        (["cvt31", "--output", "a.svg"], "Did you mean 'cvt"),
        (["none.json", "--output", "a.svg"], "none.json"),
        (["text.json", "--output", "a.svg"], "text.json must have a JSON object or a list"),
        (["cut_off.json", "--output", "a.svg"], "cut_off.json is not a JSON file"),
        (
            ["list.json", "--output", "a.svg"],
            "Stage 0 must be a StageConfig or a dict of its fields. Received 1.",
        ),
        (
            ["cvt13", "--output", "a.svg", "--classes", "0"],
            "--classes: must be an integer, at least 1",
        ),
        (["cvt13", "--output", "a.svg", "--image-size", "1"], "at least 3 pixels"),
    ),
)
def test_wrong_use(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    files = {
        "there.svg": "mine",
        "cut_off.json": '{"DIM_EMBED": ',
        "list.json": "[1]",
        "text.json": "1",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert main(["draw", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


def test_numbers_have_three_digits():
    shown = {999: "999", 1000: "1.00 k", 9994: "9.99 k", 9996: "10.0 k", 99950: "100 k"}
    shown |= {999_600: "1.00 M", 19_997_480: "20.0 M", 4_566_000_000: "4.57 G"}
    assert {number: drawing._short(number) for number in shown} == shown
