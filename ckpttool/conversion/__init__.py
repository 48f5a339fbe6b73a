"""From an inspection to files."""
