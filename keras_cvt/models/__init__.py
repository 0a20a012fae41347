"""CvT models: `CvT` for any configuration, the published variants, and their feature pyramids.

A model is a plain functional Keras model.
"""

from keras_cvt.models.cvt import CvT
from keras_cvt.models.pyramid import feature_pyramid
from keras_cvt.models.variants import CvT13, CvT21, CvTW24, constructor

__all__ = ["CvT", "CvT13", "CvT21", "CvTW24", "constructor", "feature_pyramid"]
