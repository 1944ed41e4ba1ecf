"""Train a model: ``python train.py --stage synthetic --help`` lists every option."""

import sys

from deqflow.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
