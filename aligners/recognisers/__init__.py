"""Speech to text: a Hugging Face model for speech recognition, or a command, as one kind of recogniser."""

from aligners.recognisers.command import CALL, CommandRecogniser
from aligners.recognisers.model import ModelRecogniser
from aligners.recognisers.transcript import Recogniser


def load_recogniser(
    model: str, command: str, *, device: str, dtype: str, batch: int | None, timeout: float
) -> Recogniser:
    """The recogniser of a model or of a command, of which one must be named.

    Raises:
        ValueError: both or none; it cannot be loaded.
    """
    if bool(model) == bool(command):
        raise ValueError(f"transcribe: need a model or a command, got {'both' if model else 'neither'}")
    if command:
        return CommandRecogniser(command, timeout, batch or CALL)
    return ModelRecogniser(model, device, dtype, batch)
