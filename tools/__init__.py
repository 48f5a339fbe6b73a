"""What makes releases and parts of the documentation; not shipped."""
