"""What is worth saying of a checkpoint."""
