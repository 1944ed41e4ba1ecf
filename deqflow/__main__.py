"""``python -m deqflow`` is the command ``deqflow``."""

import sys

from deqflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
