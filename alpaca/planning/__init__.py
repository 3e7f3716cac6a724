"""What a run will take before it runs: steps, tokens, memory, hours and dollars, from the config alone."""
