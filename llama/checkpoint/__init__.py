"""Checkpoints on disk: reading releases of every kind, cutting them in two, loading the halves."""
