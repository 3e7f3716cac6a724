"""The run directory, the console record and Weights & Biases."""
