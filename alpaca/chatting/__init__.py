"""Talk with a trained model: in the terminal, side by side with another, or as a server."""
