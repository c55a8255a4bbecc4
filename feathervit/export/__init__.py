"""Exports checkpoints to files for other runtimes, and checks the files against the original model."""
