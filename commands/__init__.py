"""The command line: one file per group of commands. Commands parse, call one function, and print its result."""
