"""Batches of images and labels, from the sources of `training.data.sources`.

A training batch is (images, labels), an evaluation batch (images, targets, weights): images are
float32 (batch, height, width, channels), normalized; labels float32 (batch, classes), each summing
to 1; targets float32 (batch, classes), 1 for each class that is right; weights float32 (batch,), 0
for what does not count.

On the way there, an example is a dict {"image", "labels", "name"} (see `training.data.sources`), and a
batch a dict of these names; `delivery.as_tuples` makes the tuples at the very end.

What a row of a batch shows follows from the seed and the row's number in the run alone. So a run that
goes on after any step sees what it would have seen without a break, and several workers, each with its
part of every batch, see together the batches of one. There are two exceptions: sources without random
access (TFRecord) are dealt out to the workers, so that their order depends on the number of workers;
and with a tf.data service it also depends on which server is faster.

Images that can't be decoded do not stop a run: see `Damaged`. The next one that can be stands also in
their place, and nothing else moves. A file that can't be read is another matter: see `storage`.

`python -m training.show_batch` draws a batch, `python -m benchmarks.input` measures the speed.
"""

from training.data.arrays import evaluation_arrays
from training.data.damaged import Damaged, DamagedError
from training.data.dataset import RunData, load, steps_per_epoch, total_steps
from training.data.delivery import finished
from training.data.evaluation import evaluation_batches, evaluation_image
from training.data.pipeline import training_batches
from training.data.storage import StorageError

__all__ = [
    "Damaged",
    "DamagedError",
    "RunData",
    "StorageError",
    "evaluation_arrays",
    "evaluation_batches",
    "evaluation_image",
    "finished",
    "load",
    "steps_per_epoch",
    "total_steps",
    "training_batches",
]
