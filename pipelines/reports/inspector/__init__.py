"""The inspector: a folder that opens in a browser without a server, to look at a build and listen to a sample of it."""
