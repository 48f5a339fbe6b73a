"""Turning results into text: the only place that knows what a person or a pipe sees."""
