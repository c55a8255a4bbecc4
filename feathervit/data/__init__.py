"""Loads data from a name, a folder, the hub or arrays as tensors, and makes batches."""

from .sources import DataSplits, ImageSet, load_data, load_run_data, load_split

__all__ = ["DataSplits", "ImageSet", "load_data", "load_run_data", "load_split"]
