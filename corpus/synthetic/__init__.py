"""Synthetic stories and the speech that reads them."""
