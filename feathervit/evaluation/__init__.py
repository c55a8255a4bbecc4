"""How good a model is: figures computed from its probabilities, and simple baselines beside them."""
