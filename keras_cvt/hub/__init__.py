"""CvT in KerasHub: backbone, classifier, presets and the hub. The extra `hub` brings KerasHub.

    import keras_hub
    import keras_cvt.hub   # makes the classes and the names of the published presets known

    classifier = keras_hub.models.ImageClassifier.from_preset("cvt13_imagenet", activation="softmax")
    classifier.predict(images)   # raw pixels

The rest of keras_cvt never needs it. See docs/kerashub.md.
"""

from keras_cvt import _backend

try:
    import keras_hub  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "keras_hub":
        raise
    raise ModuleNotFoundError(_backend.missing(error), name=error.name) from None

from keras_cvt.hub.backbone import CvTBackbone
from keras_cvt.hub.classifier import CvTImageClassifier
from keras_cvt.hub.conversion import from_model, to_model
from keras_cvt.hub.preprocessing import CvTImageClassifierPreprocessor, CvTImageConverter
from keras_cvt.hub.published import register
from keras_cvt.hub.upload import upload_preset, write_model_card

__all__ = [
    "CvTBackbone",
    "CvTImageClassifier",
    "CvTImageClassifierPreprocessor",
    "CvTImageConverter",
    "from_model",
    "to_model",
    "upload_preset",
    "write_model_card",
]

register()
