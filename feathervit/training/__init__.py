"""Trains models: the loop, objectives, optimisers, checkpoints."""
