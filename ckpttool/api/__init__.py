"""The Python API; its names are reached as those of ``ckpttool``, where they come lazily."""
