"""Instruction data from a model: prompt, parsing, filters, novelty, and a pipeline that loses nothing."""
