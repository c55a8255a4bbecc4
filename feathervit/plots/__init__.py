"""Draws plots and reports of models and runs."""
