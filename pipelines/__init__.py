"""Beam, and only here: stages over parts, done markers, the build from manifest to shards, its report."""
