"""Checkpoints on disk: read releases of every kind, split them in two, load the halves."""
