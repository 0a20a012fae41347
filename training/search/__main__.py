"""`python -m training.search`."""

import sys

from training.search.command import main

sys.exit(main())
