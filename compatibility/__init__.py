"""Old torch releases and other Pythons: what is read of theirs, what they read of ours (``make compat``)."""
