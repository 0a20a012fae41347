"""ImageNet-1k around the model: a picture in, the names of what it shows out.

    images = np.stack([load_image("cat.jpg")])
    decode_predictions(model.predict(preprocess_input(images)))

`load_image` repeats the evaluation transforms of the official code (microsoft/CvT,
lib/dataset/transformas/build.py), which are torchvision's `Resize` and `CenterCrop` on Pillow
images. Everything here works offline, except for reading an image from an http(s) URL.
"""

from keras_cvt.images.labels import decode_predictions, labels, synsets
from keras_cvt.images.load import ImageError, load_grey, load_image
from keras_cvt.images.preprocessing import MEAN, STD, size_and_crop
from keras_cvt.images.transform import preprocess_input

__all__ = [
    "MEAN",
    "STD",
    "ImageError",
    "decode_predictions",
    "labels",
    "load_grey",
    "load_image",
    "preprocess_input",
    "size_and_crop",
    "synsets",
]
