"""F0, pitch tokens and style tokens."""
