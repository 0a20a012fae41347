"""What a run is: a frozen `Config`, changed by `key=value`; `training.configs` has those with names.

Nothing here imports TensorFlow, so that a mistake on the command line is answered at once.
"""

from training.config.augmentation import AugmentationConfig
from training.config.config import Config
from training.config.data import ORIENTATIONS, DataConfig
from training.config.fields import ConfigError, check_choice
from training.config.model import CUSTOM, INITS, ModelConfig
from training.config.optimization import OptimizationConfig
from training.config.run import PRECISIONS, STRATEGIES, RunConfig
from training.config.search import PAPERS_SPACE, SearchConfig
from training.config.settings import override

__all__ = [
    "CUSTOM",
    "INITS",
    "ORIENTATIONS",
    "PAPERS_SPACE",
    "PRECISIONS",
    "STRATEGIES",
    "AugmentationConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "ModelConfig",
    "OptimizationConfig",
    "RunConfig",
    "SearchConfig",
    "check_choice",
    "override",
]
