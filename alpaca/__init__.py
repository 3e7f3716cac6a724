"""Config-driven ablations of the Stanford Alpaca recipe: make instruction data, fine-tune on it, compare the runs."""

__version__ = "0.1.0"
