"""Files that were made to harm whoever reads them, built by named opcode and field."""
