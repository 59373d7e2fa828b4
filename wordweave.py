"""The front door: `wordweave COMMAND`. Heavy imports stay inside commands, so that `--help` is instant."""

from commands import build as data
from commands import encoder, evaluate, mfa, model, study, testset
from commands import inspect as look
from commands import operations as upkeep
from commands.cli import cli

ROOMS = (data, encoder, evaluate, look, mfa, model, study, testset, upkeep)
"""Where the commands are: each module adds its own to `cli`."""

if __name__ == "__main__":
    cli()
