"""Programs over keras_cvt, run from a checkout: `python -m training.train --config digits`."""
