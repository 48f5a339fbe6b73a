"""The only package that imports torch, and (by ``--model``) the only one that runs foreign code."""
