"""Errors of a model on data sets with ground truth; the same program as ``deqflow evaluate``."""

import sys

from deqflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
