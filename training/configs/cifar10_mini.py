"""A CvT of CvT-13's form on CIFAR-10 at its own 32x32 pixels, small enough for two CPU cores.

    python -m training.train --config cifar10_mini
    python -m training.train --config cifar10_mini --set source=folder:DIR   # train/CLASS, val/CLASS

It is for trying things, above all the paper's ablations and search in miniature: see docs/paper.md. The
data set is downloaded.
Accuracy and time: not measured yet.
"""

from training.configs import digits

CONFIG = digits.CONFIG.replace(
    source="tfds:cifar10",
    # The recipe in small: of so few pixels no crops are enlarged, and a small network has no use for
    # harder images.
    max_shift=4,
    flip=0.5,
    label_smoothing=0.1,
    depths=(1, 2, 4),
    epochs=50,
    batch_size=128,
    learning_rate=2e-3,
    warmup_epochs=2,
    clip_norm=1.0,
    epsilon=1e-8,  # Adam's usual one
)
