"""What comes in: utterances, their manifest, audio and text, adapters, and demo speech made on the spot."""
