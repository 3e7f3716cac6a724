"""A finished run as a folder that any program loads: weights, chat template, card, GGUF, hub."""
