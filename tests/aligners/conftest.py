"""Fixtures of the tests of aligners."""

import pytest


@pytest.fixture(scope="session")
def fitted(spoken_corpus, tmp_path_factory):
    """A build of spoken sentences with a model of its own."""
    pytest.importorskip("viter")
    from click.testing import CliRunner

    import wordweave

    build = tmp_path_factory.mktemp("build")
    for words in (
        ["ingest", "jsonl", spoken_corpus, build],
        ["fit", "aligner", build, "--dictionary", "letters"],
    ):
        done = CliRunner().invoke(wordweave.cli, [*map(str, words)])
        assert done.exit_code == 0, done.output
    return build
