"""The front door: `wordweave COMMAND`. Heavy imports stay inside commands, so that `--help` is instant."""

from commands import data, encoder, evaluate, look, mfa, model, packs, resynthesis, study, upkeep
from commands.door import cli

ROOMS = (data, encoder, evaluate, look, mfa, model, packs, resynthesis, study, upkeep)
"""Where the commands are: each module adds its own to `cli`."""

if __name__ == "__main__":
    cli()
