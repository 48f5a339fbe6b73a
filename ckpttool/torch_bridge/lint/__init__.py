"""Traps of Parameter and Buffer in a model."""
