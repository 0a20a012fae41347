"""Prints how many images per second one core augments: `python -m benchmarks.augment`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from training import startup


def main(size: int = 224) -> None:
    """Measures each operation, RandAugment, the whole recipe for an image, and mixing."""
    startup.quiet_tensorflow()
    import tensorflow as tf
    from sklearn.datasets import load_sample_image

    from training import augment
    from training.augment import operations

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    photo = tf.constant(load_sample_image("china.jpg"))[:375, :500]
    image = augment.resize(photo, size)

    for name in operations.OPERATIONS:
        operation = functools.partial(operations.apply_operation, name, image)
        measure(name, lambda key, operation=operation: operation(9.0, 1.0, (124, 116, 104)))
    measure("RandAugment", lambda key: augment.rand_augment(image, key), 3000)
    for name, augmenter in (("crop, resize, erase", "none"), ("the same and RandAugment", "timm")):
        transform = augment.train_transform(size, augmenter=augmenter)
        measure(name, lambda key, transform=transform: transform(key, photo))
    batch, labels = tf.random.uniform([64, size, size, 3]), tf.one_hot(tf.range(64), 1000)
    for name, cut in (("mixup", 0.0), ("cutmix", 1.0)):
        mix = functools.partial(augment.mix, batch, labels, cutmix_probability=cut)
        measure(f"{name}, batches of 64", lambda key, mix=mix: mix(key), 50, 64)


def measure(name: str, function: Callable, steps: int = 1000, images: int = 1) -> None:
    """Prints the speed of a function of a key that makes so many images in each step."""
    import tensorflow as tf

    from training import augment

    results = tf.data.Dataset.range(steps + 10).map(lambda i: function(augment.key(0, i)))
    start = 0.0
    for number, _ in enumerate(results):
        if number == 9:  # the first are slow
            start = time.process_time()  # not the time of other programs
    print(f"{name:26}{steps * images / (time.process_time() - start):8.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
