"""What is passed on between rooms: immutable, and made of the standard library alone."""
