"""What builds the book: chapters and their inputs, locks, environments, the README's picture."""
