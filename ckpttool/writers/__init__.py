"""Writers: from a plan to the exact bytes of each file, with gaps where the pieces go."""
