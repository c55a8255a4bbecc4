"""Measures the cost and the speed of models."""
