"""A run's model."""

from __future__ import annotations

from typing import Any

from training import config as configs
from training.config import Config, ConfigError


def build_model(
    config: Config, images: Any, activation: str | None = None, dtype: str = "float32"
) -> Any:
    """The run's CvT, with its initial weights.

    Args:
        images: a `data.Data`, which says the images' channels and the classes.
        activation: "softmax", or None for logits.
        dtype: a policy of Keras.

    Returns:
        A `keras.Model` from float32 (batch, height, width, channels) to (batch, classes).

    Raises:
        ConfigError: if there is no such CvT, or its weights can't be had.
    """
    import keras_cvt

    models = {"cvt13": keras_cvt.CvT13, "cvt21": keras_cvt.CvT21, "cvtw24": keras_cvt.CvTW24}
    options = {
        "input_shape": (config.image_size, config.image_size, images.channels),
        "weights": config.weights,
        "classes": len(images.class_names),
        "classifier_activation": activation,
        "recompute": config.recompute,
        "dtype": dtype,
    }
    if configs.INITS[config.init] is not None:
        options["kernel_initializer"] = configs.INITS[config.init]
    try:
        if config.model != "custom":
            if config.drop_path_rate is not None:
                options["drop_path_rate"] = config.drop_path_rate
            return models[config.model](**options)
        return keras_cvt.CvT(_stages(config), **options)
    except (ValueError, OSError) as error:
        raise ConfigError(f"There is no such model. {error}") from error


def _stages(config: Config) -> list[Any]:
    """A custom CvT's."""
    import keras_cvt

    last = len(config.dims) - 1
    size, stride, padding = config.patch
    first = {"patch_size": size, "patch_stride": stride, "patch_padding": padding}
    shapes = zip(config.dims, config.depths, config.heads, strict=True)
    return [
        keras_cvt.StageConfig(
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            class_token=i == last,
            drop_path_rate=(config.drop_path_rate or 0.0) if i == last else 0.0,
            **(first if i == 0 else {}),
        )
        for i, (dim, depth, heads) in enumerate(shapes)
    ]
