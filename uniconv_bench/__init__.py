"""uniconv-bench: a benchmark and reproducibility suite for UniConv (arXiv 2507.07030)."""

__version__ = "0.1.0"
