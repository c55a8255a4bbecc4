"""Training: the loop, objectives, optimisers, checkpoints."""
