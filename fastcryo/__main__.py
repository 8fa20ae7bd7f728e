"""``python -m fastcryo`` is the command ``fastcryo``."""

import sys

from fastcryo.cli import main

sys.exit(main())
