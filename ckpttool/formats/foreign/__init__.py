"""What is recognised by its content and not read."""
