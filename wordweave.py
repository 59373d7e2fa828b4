"""The command-line entry point, `wordweave COMMAND`. Heavy imports stay inside commands: `--help` is instant."""

import importlib

from commands.cli import COMMAND_MODULES, cli

for module in COMMAND_MODULES:
    importlib.import_module(f"commands.{module}")

if __name__ == "__main__":
    cli()
