"""Makes `clips` and `hostile` importable from every test."""
