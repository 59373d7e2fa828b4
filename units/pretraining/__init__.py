"""Training of compact encoders."""
