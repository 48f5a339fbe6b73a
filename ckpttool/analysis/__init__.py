"""Pure functions from a ``Checkpoint`` to facts about it."""
