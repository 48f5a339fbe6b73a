"""From what was asked to a result: what the command line and the Python API do alike."""
