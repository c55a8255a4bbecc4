"""Draws what a model does."""
