"""Data: from a name, a folder, the hub or arrays to tensors, and from tensors to batches."""

from .sources import DataSplits, ImageSet, load_data, load_run_data, load_split

__all__ = ["DataSplits", "ImageSet", "load_data", "load_run_data", "load_split"]
