"""Scores of a model on held-out rows: losses, decoding, ROUGE-L."""
