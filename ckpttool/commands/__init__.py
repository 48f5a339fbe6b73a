"""One module per command: parse, call once, emit."""
