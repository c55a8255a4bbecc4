"""Exports a checkpoint to files for other runtimes, each checked against the original model."""
