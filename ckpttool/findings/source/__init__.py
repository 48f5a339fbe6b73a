"""What is worth saying of the classes of a package, from their source alone: it is parsed, and never run."""
