"""Readers: from a path to a ``Checkpoint`` of addresses."""
