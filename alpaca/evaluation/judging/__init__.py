"""Pairwise judgement: who wins, by how much, and how far the judge can be trusted."""
