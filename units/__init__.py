"""Audio to discrete units: encoders, k-means codebooks, runs of equal units."""
