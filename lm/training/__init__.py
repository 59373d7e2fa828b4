"""The trainer of the compact model."""
