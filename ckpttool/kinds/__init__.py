"""What every entry is to its module, with the evidence."""
