"""What holds for any settings of a run, and any run's steps."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from training import configs
from training.config import PRECISIONS, STRATEGIES, Config, override
from training.config.fields import as_float32, is_float32
from training.config.settings import as_text
from training.engine.loop import segments


def floats(low: float, high: float):
    """Numbers in a range that float32 has, or 0."""
    return st.floats(low, high).map(as_float32).filter(is_float32)


rates = floats(0, 1).filter(lambda rate: rate < 1)
# Values that every config may have, by key.
VALUES = {
    "image_size": st.integers(32, 1000),
    "batch_size": st.just(256),
    "learning_rate": floats(1e-12, 1e3),
    "drop_path_rate": st.one_of(st.none(), rates),
    "label_smoothing": rates,
    "flip": floats(0, 1),
    "erase": floats(0, 1),
    "mixup": floats(0, 1e3),
    "crop_scale": st.one_of(st.none(), st.tuples(floats(0.01, 0.5), floats(0.5, 1)).map(list)),
    "evaluation_crop": st.one_of(st.none(), floats(0.01, 1)),
    "weight_decay": floats(0, 1e3),
    "clip_norm": st.one_of(st.none(), floats(1e-9, 1e9)),
    "ema": st.one_of(st.none(), rates.filter(bool)),
    "seed": st.integers(0, 2**31 - 1),
    "jit_compile": st.booleans(),
    "strategy": st.sampled_from(STRATEGIES),
    "precision": st.sampled_from(PRECISIONS),
    "max_steps": st.one_of(st.none(), st.integers(1)),
    "data_dir": st.one_of(
        st.none(), st.text("/abcABC =.,-_", min_size=1).map(str.strip).filter(bool)
    ),
}


@given(st.fixed_dictionaries({}, optional=VALUES))
@settings(max_examples=200)
def test_what_set_says_is_what_the_config_has(changes):
    base = configs.load("digits", ["max_shift=0"])  # which a crop needs
    config = override(base, [f"{key}={as_text(value)}" for key, value in changes.items()])
    assert config.to_dict() == {**base.to_dict(), **changes}
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 30))
@settings(max_examples=200)
def test_segments_partition_what_is_left_of_a_run(step, more, per_epoch):
    total = step + more
    parts = segments(step, total, per_epoch)
    assert [i for begin, end in parts for i in range(begin, end)] == list(range(step, total))
    assert len(parts) <= 3
    for begin, end in parts:
        whole = begin % per_epoch == 0 and end % per_epoch == 0
        assert whole or begin // per_epoch == (end - 1) // per_epoch  # or part of one epoch
