"""Shared cases: real speech where it is there, and a small synthetic spoken corpus."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("wordweave", deadline=None)  # a test states what is true, not how fast
hypothesis.settings.load_profile("wordweave")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_speech() -> Path:
    """Folder of real recorded speech (WORDWEAVE_SPEECH, else ../shared/speech); skips where it is absent."""
    folder = Path(os.environ.get("WORDWEAVE_SPEECH", ROOT.parent / "shared" / "speech"))
    if not (folder / "dev" / "manifest.jsonl").is_file():
        pytest.skip(f"no real speech at {folder}; set WORDWEAVE_SPEECH")
    return folder


@pytest.fixture(scope="session")
def spoken_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifest of 24 utterances of four voices, synthesised once per test process."""
    pytest.importorskip("espeakng_loader", reason="the demo extra speaks the test corpus")
    from corpus.synthetic.speech import synthesise

    return synthesise(tmp_path_factory.mktemp("spoken"), utterances=24, voices=4, seed=1)


@pytest.fixture(scope="session")
def built(spoken_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small whole build, made once per test process; tests copy it before they change it."""
    from tests.helpers.builds import build_settings, run_build

    folder = tmp_path_factory.mktemp("built")
    run_build(folder, build_settings(spoken_corpus))
    return folder


@pytest.fixture(scope="session")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny build with every kind of token, HTML in its texts, and rejects."""
    from pipelines.build import build
    from tests.golden import tiny_settings

    html = "</script><img src=x onerror=\"document.title='changed'\"><b>bold</b>"
    folder = tmp_path_factory.mktemp("inspected")
    settings = tiny_settings(folder)
    manifest = Path(settings.corpus.source)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[0]["speaker"] = rows[1]["license"] = html
    rows += [
        {"id": "gone", "audio": "gone.wav", "text": html, "speaker": "s1"},
        {**rows[2], "text": f"again {html}"},
        {**rows[3], "id": "silent", "text": None},
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build(folder / "build", settings)
    return folder / "build"


@pytest.fixture(scope="session")
def huberts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """A random HuBERT of each layout: (transformers model, its directory)."""
    from tests.helpers.hubert import LAYOUTS, random_hubert

    found = {}
    for layout in LAYOUTS:
        model, folder = random_hubert(layout), tmp_path_factory.mktemp("hubert")
        model.save_pretrained(folder)
        found[layout] = model, folder
    return found


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of torch's threads, for this test alone."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
