"""Text from a model: this process, vLLM, or any OpenAI-compatible server; with usage, budget and retries."""
