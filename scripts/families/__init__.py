"""Tiny random checkpoints of every model family, and the checks that quantkit must pass on them."""
