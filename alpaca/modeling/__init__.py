"""Tokenizer, base model, adapters and packed attention."""
