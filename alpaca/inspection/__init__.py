"""What the model will see, surveyed and shown: the room behind `python -m alpaca.inspect`."""
