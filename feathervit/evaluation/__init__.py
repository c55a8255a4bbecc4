"""Evaluates models: figures computed from their probabilities, and simple baselines to compare with."""
