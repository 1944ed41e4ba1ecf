"""Data sets with ground truth, read from their official directory layouts.

A pair exists where its flow file and both its frames do, so that parts of a data set serve as well as the
whole. Listings are sorted; frames and flow are read when a pair is asked for.
"""

from deqflow.data.datasets.catalog import DATASETS, find_benchmarks, open_dataset
from deqflow.data.datasets.family import Family
from deqflow.data.datasets.pairs import PairDataset, PairFiles, Truth

__all__ = ["DATASETS", "Family", "PairDataset", "PairFiles", "Truth", "find_benchmarks", "open_dataset"]
