"""The inspector: what is in its sample and its numbers, that it is safe and small, and that it works in a browser."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import wordweave
from pipelines.build import build, run_step
from pipelines.reports.inspector import page
from pipelines.reports.inspector.overview import Smallest
from pipelines.settings import read_settings, replace
from shards.samples import read_samples
from shards.vocabulary import Vocabulary
from tests.helpers.browser import ENTER, SPACE, TAB, Browser, open_browser
from units.quality import Usage

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "pipelines" / "data" / "inspector"


def read_script(path: Path) -> dict:
    """The value of a file that the page loads."""
    name, _, content = path.read_text().removeprefix("wordweave(").removesuffix(");\n").partition(", ")
    assert json.loads(name)
    return json.loads(content)


def overview(build: Path) -> dict:
    return read_script(build / "report" / "data" / "overview.js")


def details(build: Path) -> dict[str, dict]:
    """Link of an utterance -> what its page shows."""
    return {row["link"]: read_script(build / "report" / row["file"]) for row in overview(build)["utterances"]}


def test_the_sample_has_every_stratum_and_every_reason(inspected):
    report = json.loads((inspected / "report" / "report.json").read_text())
    listed = overview(inspected)["utterances"]
    strata = {name for row in listed for name in row["strata"]}
    assert strata == {
        "typical",
        "worst aligned",
        "longest",
        *(f"rejected: {reason}" for reason in report["reasons"]),
    }
    assert {row["link"] for row in listed} >= {"u0", "u1", "u5", "gone", "u2", "u2 (2)", "silent"}
    assert details(inspected)["gone"]["reason"] == "audio.missing"
    assert details(inspected)["u2 (2)"]["reason"] == "id.duplicate"


def test_audio_is_that_of_the_recording_and_tracks_have_its_length(inspected):
    for link, detail in details(inspected).items():
        if link == "gone":
            assert "audio" not in detail
            assert "audio.missing" in detail["problem"]
            continue
        played, rate = soundfile.read(inspected / "report" / detail["audio"], dtype="int16")
        number = detail["id"].removeprefix("u") if detail["id"] != "silent" else "3"
        source, _ = soundfile.read(inspected.parent / "corpus" / f"{number}.wav", dtype="int16")
        assert rate == 16_000
        assert np.array_equal(played, source)
        assert len(detail["peaks"]) == -(-len(source) // 160)
        if detail["outcome"] == "rejected":
            continue
        assert abs(len(detail["f0"]["values"]) / 50 - detail["seconds"]) < 0.05
        assert abs(len(detail["units"]["values"]) / detail["units"]["rate"] - detail["seconds"]) < 0.1


def test_the_spans_of_the_page_are_those_in_the_shards(inspected):
    vocabulary = Vocabulary.load(inspected / "shards")
    shown = details(inspected)
    for path in (inspected / "shards" / "interleaved").glob("*.tar"):
        for sample in read_samples(path):
            spans = shown[sample["__key__"]]["spans"]
            text = "".join(span["marker"] + span["tokens"] for span in spans)
            known = {vocabulary.bos, vocabulary.eos}
            tokens = [token for token in sample["tokens.npy"].tolist() if token not in known]
            assert text == "".join(vocabulary.decode(tokens))
            assert [spans[0]["first"], spans[-1]["last"]] == [0, len(sample["json"]["words"])]


def test_the_same_build_gives_the_same_bytes(inspected):
    def files() -> dict[str, bytes]:
        folder = inspected / "report"
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }

    before = files()
    run_step("report", inspected, read_settings(inspected))
    assert files() == before
    assert sum(map(len, before.values())) < 15e6


def test_audio_beyond_the_limit_is_left_out_and_the_page_says_so(inspected, tmp_path, monkeypatch):
    copy = shutil.copytree(inspected, tmp_path / "build")
    monkeypatch.setattr(page, "AUDIO_BYTES", 200_000)
    run_step("report", copy, read_settings(copy))
    assert sum(path.stat().st_size for path in (copy / "report" / "media").iterdir()) <= 200_000
    assert any("left out" in (detail["problem"] or "") for detail in details(copy).values())


def test_no_text_of_the_corpus_becomes_html(inspected):
    assert "<img" not in (inspected / "report" / "index.html").read_text()
    code = (PAGE / "inspector.js").read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "srcdoc"):
        assert word not in code


def test_the_page_loads_nothing_from_outside_and_names_the_licences_of_what_it_holds():
    for name in ("index.html", "inspector.js", "inspector.css"):
        assert not re.search(r"https?:|url\(|@import|fetch\(|import\(", (PAGE / name).read_text()), name
    licences = (PAGE / "vendored" / "LICENSES.txt").read_text()
    assert "wavesurfer.js 8.0.1" in licences
    assert "uPlot 1.6.32" in licences
    assert {Path(name).name for name in page.ASSETS if "vendored" in name} == {
        path.name for path in (PAGE / "vendored").iterdir()
    }


def test_a_change_of_the_build_is_shown_and_two_builds_are_compared(inspected, tmp_path):
    copy = shutil.copytree(inspected, tmp_path / "build")
    assert overview(copy)["changes"] is None
    settings = replace(read_settings(copy), "interleave", seed=7)
    build(copy, settings)
    changed = [row for row in overview(copy)["changes"] if row[0] == "settings.interleave.seed"]
    assert changed == [["settings.interleave.seed", "0", "7"]]
    result = CliRunner().invoke(wordweave.cli, ["report", str(copy), "--against", str(inspected), "--json"])
    assert result.exit_code == 0, result.output
    assert ["settings.interleave.seed", "0", "7"] in overview(copy)["changes"]  # until the next change
    assert "settings.interleave.seed: 0 -> 7" in result.stderr
    against = overview(copy)["against"]
    assert against["build"] == "build"
    assert json.loads(result.stdout)["differences"] == len(against["rows"]) > 0
    result = CliRunner().invoke(wordweave.cli, ["report", str(copy), "--against", str(tmp_path)])
    assert (result.exit_code, "need a build with a report, got none" in result.output) == (1, True)


def test_smallest_keeps_the_smallest_keys_in_any_order():
    rng = np.random.default_rng(0)
    keys = rng.integers(20, size=100).astype(float).tolist()
    entries = [(key, str(number), number) for number, key in enumerate(keys)]
    kept = []
    for order in (entries, entries[::-1]):
        smallest = Smallest(10)
        for entry in order:
            smallest.add(*entry)
        kept.append(smallest.items())
    assert kept[0] == kept[1]
    assert [keys[number] for number in kept[0]] == sorted(keys)[:10]


def test_units_of_many_utterances_are_counted_as_one_after_another():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(4, size=length) for length in (5, 1, 30, 0, 7)]
    one, many = Usage(4), Usage(4)
    for sequence in sequences:
        one.add(sequence)
    begins = np.cumsum([0, *map(len, sequences[:-1])])
    many.add(np.concatenate(sequences), begins)
    assert one.card(25.0) == many.card(25.0)


# In a browser -----------------------------------------------------------------------------------------------------


def show(browser: Browser, build: Path, hash: str) -> None:
    browser.open("about:blank")
    browser.open(f"file://{build}/report/index.html#{hash}")
    browser.wait("window.inspector")


@pytest.fixture(scope="module")
def browser():
    with open_browser() as window:
        window.resize(1200, 900)
        yield window


@pytest.mark.slow
@pytest.mark.parametrize(
    "hash", ["overview", "utterances", "build", "utterance=u0", "utterance=gone", "utterance=none"]
)
@pytest.mark.parametrize(("width", "theme"), [(1200, "light"), (390, "dark")])
def test_every_page_is_drawn_without_an_error_and_fits_the_window(browser, inspected, hash, width, theme):
    browser.resize(width, 800)
    show(browser, inspected, hash)
    browser.run(f"document.documentElement.dataset.theme = '{theme}'")
    assert browser.problems() == []
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth") is True
    assert (
        browser.run(
            "return document.querySelectorAll('img, b b').length + document.title.includes('changed')"
        )
        == 0
    )


FOLLOW = """
    const { player } = inspector;
    const differences = [];
    new MutationObserver(() => {
      const left = parseFloat(player.cursor.style.left) / 100 * player.seconds;
      differences.push(player.audio.currentTime - left);
    }).observe(player.cursor, { attributes: true });
    player.toggle();
    await new Promise(done => player.audio.addEventListener('timeupdate', done, { once: true }));
    let frames = 0;
    differences.length = 0;
    while (frames < 40 && !player.audio.paused) {
      await new Promise(requestAnimationFrame);
      frames += 1;
    }
    player.audio.pause();
    return [frames, differences];
"""


@pytest.mark.slow
def test_audio_plays_and_the_cursor_follows_it(browser, inspected):
    browser.resize(1200, 900)
    show(browser, inspected, "utterance=u0")
    frames, differences = browser.run(FOLLOW)
    assert (
        len(differences) > 0.8 * frames > 4
    )  # the cursor moves in every frame, however long a busy machine's are
    assert np.median(np.abs(differences)) < 0.05  # seconds; on a busy machine single frames are interrupted


WATCH = """
    const { audio } = inspector.player;
    window.times = [];
    const watch = () => {
      if (!audio.paused) times.push(audio.currentTime);
      requestAnimationFrame(watch);
    };
    watch();
"""
"""The time of the audio in each frame in which it plays."""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["button", "track"])
def test_a_click_on_a_word_plays_that_word(browser, inspected, way):
    browser.resize(1200, 900)
    show(browser, inspected, "utterance=u0")
    word = details(inspected)["u0"]["words"][5]
    browser.run(WATCH)
    if way == "button":
        browser.run("document.querySelectorAll('.word')[5].click()")
    else:
        x, y = browser.run("""
            const canvas = document.querySelector('.words-track');
            canvas.scrollIntoView({ block: 'center' });
            const box = canvas.getBoundingClientRect();
            return [box.left + box.width * args[0] / inspector.player.seconds, box.top + box.height / 2];
        """, (word[1] + word[2]) / 2)  # fmt: skip
        browser.click(x, y)
    browser.wait("times.length && inspector.player.audio.paused")
    times = browser.run("return times")
    assert word[1] - 0.001 <= min(times)
    assert word[2] - 0.06 < max(times)
    assert sum(time > word[2] for time in times) <= 1  # it stops in the first frame after the word


@pytest.mark.slow
def test_the_keyboard_alone_reaches_everything(browser, inspected):
    browser.resize(1200, 900)
    show(browser, inspected, "utterance=u0")
    wanted = browser.run(
        "const all = document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]');"
        "return [...all].filter(one => !one.disabled).length"
    )
    browser.run(
        "window.reached = new Set(); document.addEventListener('focusin', event => reached.add(event.target))"
    )
    for _ in range(wanted + 5):
        browser.press(TAB)
    assert browser.run("return reached.size") >= wanted
    browser.run("document.querySelector('.word').focus()")
    browser.press(ENTER)
    browser.wait("inspector.player.audio.currentTime > 0")
    browser.wait("inspector.player.audio.paused")
    browser.run("document.querySelector('.tracks').focus()")
    browser.press(SPACE)
    browser.wait("!inspector.player.audio.paused")


@pytest.mark.slow
def test_the_list_is_searched_sorted_and_filtered_by_reason(browser, inspected):
    browser.resize(1200, 900)
    show(browser, inspected, "utterances=rejected%3A%20audio.missing")
    rows = "return [...document.querySelectorAll('tbody tr')].map(row => row.cells[0].textContent)"
    assert browser.run(rows) == ["gone"]
    show(browser, inspected, "utterances")
    browser.run(
        "const box = document.querySelector('[type=search]'); box.value = 'onerror'; box.oninput({ target: box })"
    )
    assert set(browser.run(rows)) >= {"gone", "u0"}
    browser.run(
        "const box = document.querySelector('[type=search]'); box.value = ''; box.oninput({ target: box })"
    )
    browser.run("document.querySelector('th button').click()")
    ids = browser.run(rows)
    assert len(ids) > 5
    assert ids == sorted(ids)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browser, inspected, theme):
    axe = Path(os.environ.get("WORDWEAVE_AXE", ROOT / ".venv" / "axe.min.js"))
    if not axe.is_file():
        pytest.skip(f"no axe-core at {axe}; set WORDWEAVE_AXE (npm pack axe-core)")
    browser.resize(1200, 900)
    for hash in ("overview", "utterances", "build", "utterance=u0", "utterance=gone"):
        show(browser, inspected, hash)
        if browser.run("return document.documentElement.dataset.theme") != theme:
            browser.run("document.getElementById('theme').click()")
        browser.run("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        browser.wait(
            "document.querySelectorAll('details[open]').length === document.querySelectorAll('details').length"
        )
        browser.call("POST", "/execute/sync", {"script": axe.read_text(), "args": []})
        found = browser.run(
            "const { violations } = await axe.run();"
            "return violations.map(one => [one.id, one.nodes.map(node => node.html)])"
        )
        assert found == [], f"{hash}: {found}"
