"""Rows, templates, tokens, masks and the step plan; knows nothing of models."""
