"""What the objects in a pickle of torch mean."""
