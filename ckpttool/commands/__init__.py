"""One module per command: parse, call once, emit.

Typer takes options from a function's signature, so the functions called ``command`` are as long as
their lists of options; what they do is short. Options that several commands share are in ``options``.
"""
