"""A pickle as an inert tree: nothing in it is run."""
