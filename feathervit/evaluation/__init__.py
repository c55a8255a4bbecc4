"""Evaluates models: metrics computed from their probabilities, and simple baselines."""
