"""Kinds from the source of the package that a model comes from: parsed, and never run."""
