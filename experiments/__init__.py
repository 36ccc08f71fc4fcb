"""Protocols at the size of the papers, run from the command line; their records are what the book quotes."""
