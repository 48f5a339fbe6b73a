"""From a checkpoint to what is known of it."""
