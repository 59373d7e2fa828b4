"""Inputs: utterances, their manifest, audio and text, adapters, and synthetic demo speech."""
