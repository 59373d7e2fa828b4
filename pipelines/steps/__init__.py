"""One file per step of a build."""
