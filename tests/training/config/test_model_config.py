"""Which CvT a config means (training/config/model.py), and that a run and all that follows has it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from keras import models
from tiny_runs import changed

from keras_cvt.analysis.complexity import complexity
from keras_cvt.architecture import VARIANTS, StageConfig
from keras_cvt.cli import main as keras_cvt_command
from keras_cvt.structure import structure_of
from training import compare, configs, evaluate, train
from training.config import Config, ConfigError, override, settings

# Something of everything that a stage can be.
STAGES = [
    StageConfig(8, 1, 1, patch_size=4, patch_stride=4, patch_padding=0, position_embedding=True),
    StageConfig(16, 2, 2, stride_kv=(1, 2), mlp_ratio=(2, 3.5), drop_path_rate=0.25),
    StageConfig(16, 1, 4, projection="linear", qkv_bias=False, class_token=True),
]


def loaded(*texts: str) -> Config:
    return configs.load("digits", texts)


def as_json(stages) -> str:
    return json.dumps([dataclasses.asdict(stage) for stage in stages])


def test_variants_and_what_digits_has_for_itself():
    assert configs.load("cvt13_imagenet_224").model.architecture() == list(VARIANTS["CvT13"])
    wide = configs.load("cvtw24_imagenet_384", ["drop_path_rate=0.2"]).model.architecture()
    assert wide[-1] == dataclasses.replace(VARIANTS["CvTW24"][-1], drop_path_rate=0.2)
    assert wide[:-1] == list(VARIANTS["CvTW24"][:-1])
    assert loaded().model.architecture() == [
        StageConfig(32, 1, 1, 3, 2, 1),
        StageConfig(64, 1, 2),
        StageConfig(128, 2, 4, class_token=True, drop_path_rate=0.1),
    ]


def test_changes_of_stages():
    """Paper, Table 7 (stride 1 in the third stage) and Table 8 (linear in the second)."""
    config = configs.load(
        "cvt13_imagenet_224",
        [
            'stages={"all": {"projection": "linear"}, '
            '"stage2": {"stride_kv": 1, "projection": "dw_bn"}}'
        ],
    )
    first, second, third = VARIANTS["CvT13"]
    assert config.model.architecture() == [
        dataclasses.replace(first, projection="linear"),
        dataclasses.replace(second, projection="linear"),
        dataclasses.replace(third, stride_kv=1),
    ]
    of_digits = loaded('stages={"stage2": {"mlp_ratio": [2, 4]}}').model.architecture()
    assert of_digits == [
        *loaded().model.architecture()[:2],
        StageConfig(128, 2, 4, class_token=True, drop_path_rate=0.1, mlp_ratio=(2, 4)),
    ]


def test_a_list_of_stages_inline_in_a_file_and_in_python(tmp_path):
    inline = loaded(f"stages={as_json(STAGES)}", "drop_path_rate=none")
    assert inline.model.architecture() == STAGES and inline.model.dims == ()
    (tmp_path / "stages.json").write_text(as_json(STAGES))
    in_file = loaded(f"stages={tmp_path / 'stages.json'}", "drop_path_rate=none")
    config = loaded("drop_path_rate=none")
    in_python = config.replace(stages=tuple(STAGES), dims=(), depths=(), heads=())
    assert inline == in_file == in_python

    options = {
        "DIM_EMBED": [8, 16],
        "DEPTH": [1, 1],
        "NUM_HEADS": [1, 2],
        "CLS_TOKEN": [False, True],
    }
    (tmp_path / "official.json").write_text(json.dumps({"MODEL": {"SPEC": options}}))
    official = loaded(f"stages={tmp_path / 'official.json'}", "drop_path_rate=0.5").model
    assert official.architecture() == [
        StageConfig(8, 1, 1),
        StageConfig(16, 1, 2, class_token=True, drop_path_rate=0.5),
    ]


def test_another_model_takes_the_place_of_all_that_the_config_says_of_one():
    changes = ['stages={"all": {"stride_kv": 1}}']
    assert loaded("model=cvt21", "image_size=64").model.dims == ()
    assert override(loaded(*changes), ["model=cvt13"]).model.architecture()[0].stride_kv == 2
    assert override(loaded(*changes), ["dims=8,8,8"]).model.architecture()[0].stride_kv == 2
    assert override(loaded(*changes), ["epochs=7"]).model.architecture()[0].stride_kv == 1
    assert loaded(f"stages={as_json(STAGES)}", "model=custom").model.stages


def test_stages_go_through_json_and_the_command_line():
    for text in (as_json(STAGES), '{"stage0": {"stride_kv": 1}}'):
        config = loaded(f"stages={text}")
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        stored = config.to_dict()
        assert override(loaded(), [f"stages={settings.as_text(stored['stages'])}"]) == config
        (difference,) = config.differences({**stored, "stages": []})
        assert difference.startswith("stages ([] there, ")
    assert loaded("stages={}") == loaded()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('{"stage3": {}}', "'stage0', 'stage1', 'stage2', 'all'. Received 'stage3'"),
        ('{"all": {"mlp_rato": 2}}', "Stage 0: `field` must be one of .* Did you mean 'mlp_ratio'"),
        ('{"stage1": 3}', "stage1 must be fields of a stage by name. Received 3"),
        ('{"stage2": {"mlp_ratio": [1, 2, 3]}}', "Stage 2: .*one for each of the 2 blocks"),
        ('{"all": {"num_heads": 5}}', "Stage 0: num_heads=5 does not divide embed_dim=32"),
        ('{"all": {"mlp_ratio": 1e999}}', "Stage 0: `mlp_ratio` must be a number above 0"),
        ('{"all": {"depth": null}}', "Stage 0: `depth` must be an integer of at least 1"),
        ('[{"embed_dim": 8}]', "Stage 0 has no depth, num_heads"),
        ("[1]", "Stage 0 must be a StageConfig or a dict of its fields. Received 1"),
        ("3", "`stages` must be a list of stages or an object of their changes"),
        ("{", "`stages` must be a list of stages .* Received '{'"),
        ("none.json", "`stages` can't be read. .*No such file or directory: 'none.json'"),
        ('{"stage0": {"patch_padding": 0, "patch_size": 40}}', "Images of 32x32 are too small"),
    ],
)
def test_wrong_stages(value, said):
    with pytest.raises(ConfigError, match=said) as error:
        loaded(f"stages={value}")
    assert "\n" not in str(error.value)


def test_stages_beside_other_settings():
    with pytest.raises(ConfigError, match="`model` must be custom, where `stages` is a list"):
        loaded("model=cvt13", f"stages={as_json(STAGES)}", "model=cvt13").replace(model="cvt13")
    with pytest.raises(ConfigError, match="`dims` must be left out, where `stages` is a list"):
        loaded().replace(stages=tuple(STAGES))


@pytest.mark.usefixtures("deterministic")
def test_a_run_and_what_follows_it(tmp_path, capsys):
    """The report, the `.keras` file, `evaluate`, `compare` and `keras-cvt summary` have the model."""
    config = changed(
        stages=STAGES,
        dims=(),
        depths=(),
        heads=(),
        drop_path_rate=None,
        image_size=32,
        epochs=1,
        warmup_epochs=0,
    )
    run_dir = tmp_path / "run"
    report = train.train(config, run_dir)
    model = models.load_model(run_dir / "model.keras")
    assert structure_of(model).configs == [
        dataclasses.replace(STAGES[0], position_embedding=(8, 8)),
        *STAGES[1:],
    ]
    assert report["parameters"] == model.count_params() - statistics(model)
    stages = tmp_path / "stages.json"
    stages.write_text(json.dumps(report["stages"]))
    capsys.readouterr()
    assert keras_cvt_command(["summary", str(stages), "--image-size", "32", "--classes", "10"]) == 0
    assert complexity(report["stages"], (32, 32, 1), 10).multiply_adds == report["multiply_adds"]

    output = tmp_path / "evaluated.json"
    assert evaluate.main(["--model", str(run_dir), "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["images"] == report["images"]
    assert found["top1"] == pytest.approx(report["top1"], abs=1e-6)
    assert found["loss"] == pytest.approx(report["loss"], abs=1e-5)

    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(changed().to_dict()))
    (other / "history.csv").write_text((run_dir / "history.csv").read_text())
    assert compare.main([str(run_dir), str(other), "--output", str(tmp_path / "a.png")]) == 0
    assert '"projection": "linear"' in capsys.readouterr().out


def statistics(model) -> int:
    return sum(int(weight.shape[0]) for weight in model.non_trainable_weights)
