"""What a build holds and how good it is."""
