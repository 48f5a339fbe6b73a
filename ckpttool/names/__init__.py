"""Names of entries: wrappers, globs, renames, branches, folding."""
