"""`python -m keras_cvt` is `keras-cvt`, for where scripts are not on the path."""

import sys

from keras_cvt.cli import main

if __name__ == "__main__":
    sys.exit(main())
