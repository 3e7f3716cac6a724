"""Runs side by side: what differs, by how much, how surely, and at what price."""
