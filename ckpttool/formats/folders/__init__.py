"""Checkpoints that are folders."""
