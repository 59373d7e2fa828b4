"""Exact, batch-independent inference of HuBERT encoders."""
