"""The engines by name: the one list that the command line, the documentation and `doctor` read."""

from pipelines.engines.beam import BeamEngine
from pipelines.engines.local import LocalEngine
from pipelines.engines.spark import SparkEngine
from pipelines.execution.engine import Engine

ENGINES: dict[str, type[Engine]] = {}
DEFAULT = "beam"


def register(engine: type[Engine]) -> type[Engine]:
    """Add an engine under its name; usable as a decorator.

    Raises:
        ValueError: the name is taken.
    """
    if engine.name in ENGINES:
        raise ValueError(f"engine: {engine.name!r} is registered already")
    ENGINES[engine.name] = engine
    return engine


for known in (BeamEngine, LocalEngine, SparkEngine):
    register(known)


def make_engine(name: str, workers: int, options: dict[str, str], extra: tuple[str, ...]) -> Engine:
    """The engine of this name with its options.

    Raises:
        ValueError: no such engine, or an option that it does not take.
    """
    if name not in ENGINES:
        raise ValueError(f"engine: need one of {', '.join(ENGINES)}, got {name!r}")
    if workers < 1:
        raise ValueError(f"workers: need at least 1, got {workers}")
    engine = ENGINES[name]
    own = {option.name for option in engine.options}
    for option, value in options.items():
        if value and option not in own:
            raise ValueError(f"engine: {name} takes no --{option}, got {value!r}")
    return engine.parse(workers, {option: value for option, value in options.items() if option in own}, extra)
