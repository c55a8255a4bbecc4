"""Flags of a model that is small enough to be trained in a test."""

SMALL = [
    *("--img-size", "16", "--patch-size", "4", "--batch-size", "16", "--model", "mlit_nano", "--epochs", "2"),
    *("--arch.depth", "1", "--arch.dim", "32", "--threads", "1"),
]
