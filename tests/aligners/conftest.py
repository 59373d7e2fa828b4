"""Fixtures of the tests of aligners."""

import pytest

from tests.helpers.fake_mfa import write_fake_mfa


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


@pytest.fixture
def fake(tmp_path):
    """fake(behaviour) -> (aligner settings, function that reads the arguments that the fake received)."""
    return lambda *how, **more: write_fake_mfa(tmp_path, *how, **more)
