"""What `training.search` looks through, and how long."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from training.config.fields import AT_LEAST_0, AT_LEAST_1, AT_LEAST_2, PERCENT, Section, setting

# Paper, section 4.2: for each block the stride of keys and values, and the width of the MLP.
PAPERS_SPACE = {"all": {"stride_kv": [1, 2], "mlp_ratio": [2, 4]}}


def _read_space(text: str) -> Mapping | None:
    return None if text.lower() == "none" else json.loads(text)


@dataclasses.dataclass(frozen=True)
class SearchConfig(Section):
    """What `training.search` looks through, and how long. Training alone has no use for it.

    Attributes:
        space: The values to choose from in each block: of `stride_kv`, of `mlp_ratio`, or of both, by
            stage ("stage0", "stage1", ...; or "all"). All strides of a block must be multiples of the
            smallest. What is not named stays as the model has it. none: the paper's, `PAPERS_SPACE`.
            Its key, like the others', begins with `search_`.
        held_out: The share of the training images, in percent, by which candidates are compared. They
            are not trained on; validation and test images are not used at all.
        random: How many random candidates each step trains, beside the largest and the smallest.
        teacher: Whether the other candidates learn the largest one's answers, instead of the labels.
        trials: How many candidates the search compares; as many random ones are compared beside it.
        population: Of the evolutionary search (NSGA-II).
        calibration: Batches of training images from which each candidate's statistics of BatchNorm are
            taken before it is evaluated.
    """

    space: Mapping | None = setting(
        None,
        key="search_space",
        read=_read_space,
        words="an object of stages and the values of their fields, as JSON; or none",
        before=None,
    )
    held_out: int = setting(10, PERCENT, key="search_held_out", before=10)
    random: int = setting(2, AT_LEAST_0, key="search_random", before=2)
    teacher: bool = setting(True, key="search_teacher", before=True)
    trials: int = setting(1000, AT_LEAST_1, key="search_trials", may_change=True, before=1000)
    population: int = setting(50, AT_LEAST_2, key="search_population", may_change=True, before=50)
    calibration: int = setting(32, AT_LEAST_1, key="search_calibration", may_change=True, before=32)
