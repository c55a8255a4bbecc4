"""Measures the cost and speed of models."""
