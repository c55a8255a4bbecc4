"""From a checkpoint to files for other runtimes, each checked against the model it was made from."""
