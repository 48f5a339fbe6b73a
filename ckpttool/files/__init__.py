"""Bytes in, bytes out; nothing here knows what a checkpoint is."""
