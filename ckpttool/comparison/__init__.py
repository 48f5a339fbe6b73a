"""From two sides to what differs."""
