"""The contract with MFA: every behaviour that its documentation and reports describe, imitated by a fake executable."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from aligners import load_aligner, mfa
from aligners.mfa import MfaSettings, align_command
from corpus.adapters import read_jsonl
from corpus.audio import decode
from corpus.records import Unusable, Utterance

ROOT = Path(__file__).resolve().parents[2]


def batch(*texts, speaker=None):
    wave = np.zeros(32_000, np.float32)
    return [
        (Utterance(f"id/{i}", "u.wav", len(wave), text=text, speaker=speaker), wave)
        for i, text in enumerate(texts)
    ]


def reasons(results):
    return [result.reject and result.reject.reason for result in results]


def test_words_come_back_in_their_writing_with_phones_and_quality(fake, tmp_path):
    settings, calls = fake()
    (first, second) = load_aligner("mfa", **settings).align(batch("Dr. Smith paid $3.50.", "twice"))
    assert reasons([first, second]) == [None, None]
    assert [(word.text, word.spoken) for word in first.words] == [
        ("Dr.", "doctor"),
        ("Smith", "smith"),
        ("paid", "paid"),
        ("$3.50.", "three dollars fifty"),
    ]
    assert [phone.text for phone in first.phones] == ["AH0"]
    assert {name: first.quality[name] for name in mfa.ANALYSIS if name in first.quality} == {
        "overall_log_likelihood": -45.5,
        "speech_log_likelihood": -47.0,
        "phone_duration_deviation": 3.0,
        "snr": 9.5,
    }
    assert [call["texts"] for call in calls()] == [["doctor smith paid three dollars fifty\n", "twice\n"]]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_table_of_3_4_is_read_by_its_header(fake):
    settings, _ = fake("3.4 table")
    (result,) = load_aligner("mfa", **settings).align(batch("hello"))
    assert result.quality["snr"] == 9.5
    assert "max_running_short_interval" not in result.quality
    assert "intensity_deviation" not in result.quality


def test_a_missing_file_is_sought_once_more_with_a_wide_beam_and_then_unalignable(fake):
    settings, calls = fake()
    results = load_aligner("mfa", **settings).align(batch("one", "xyzzy", "two"))
    assert reasons(results) == [None, "align.unalignable", None]
    first, second = calls()
    beams = [call["arguments"][call["arguments"].index("--beam") + 1] for call in (first, second)]
    assert beams == ["10", "100"]
    assert second["texts"] == ["xyzzy\n"]
    assert first["root"] != second["root"]


@pytest.mark.parametrize("behaviour", ["found by the wide beam", "none at first"])
def test_what_the_wide_beam_finds_is_aligned(fake, behaviour):
    settings, _ = fake(behaviour)
    results = load_aligner("mfa", **settings).align(batch("one", "xyzzy" if "wide" in behaviour else "two"))
    assert reasons(results) == [None, None]


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("none", "align.unalignable"),
        ("garbage", "align.backend_error"),
        ("killed", "align.backend_error"),
        ("usage", "align.backend_error"),
        ("crash", "align.backend_error"),
        ("half a file", "align.unreadable"),
        ("other words", "align.token_mismatch"),
    ],
)
def test_every_failure_is_a_reason(fake, behaviour, expected):
    settings, _ = fake(behaviour)
    assert reasons(load_aligner("mfa", **settings).align(batch("one two", "three"))) == [expected] * 2


def test_a_crash_is_reported_by_its_exception_without_random_paths(fake):
    settings, _ = fake("crash")
    (result,) = load_aligner("mfa", **settings).align(batch("one"))
    assert result.reject.detail == (
        "mfa: exit status 1: OSError: [Errno 28] No space left on device: …/temporary/x.mfcc"
    )


def test_split_clitics_and_unknown_words_are_matched_back(fake):
    settings, _ = fake("splits")
    (result,) = load_aligner("mfa", **settings).align(batch("WBUR's law"))
    assert [word.text for word in result.words] == ["WBUR's", "law"]
    settings, _ = fake("unknown")
    (result,) = load_aligner("mfa", **settings).align(batch("my Zyxel, dear"))
    assert [word.text for word in result.words] == ["my", "Zyxel,", "dear"]


@pytest.mark.parametrize(
    "behaviour", ["other name", "tiers of speakers", "letters apart", "grid", "overlaps at the end"]
)
def test_every_way_to_write_the_same_alignment_is_read(fake, behaviour):
    settings, _ = fake(behaviour)
    (result,) = load_aligner("mfa", **settings).align(batch("SJC's law holds"))
    assert result.reject is None, result.reject
    assert [word.text for word in result.words] == ["SJC's", "law", "holds"]
    assert all(0 <= word.start < word.end <= 2 for word in result.words)


def test_an_utterance_it_could_not_export_says_why(fake):
    settings, _ = fake("cannot export")
    results = load_aligner("mfa", **settings).align(batch("one", "two"))
    assert reasons(results) == ["align.backend_error", None]
    assert results[0].reject.detail == "mfa could not export: KeyError: 12"


@pytest.mark.parametrize(
    ("behaviour", "reason"), [("blocks on one", "align.timeout"), ("crashes on one", "align.backend_error")]
)
def test_the_utterance_that_hangs_or_crashes_it_costs_itself_only(fake, behaviour, reason):
    settings, calls = fake(behaviour)
    settings |= {"timeout_seconds": 3.0, "timeout_per_second": 0.0}
    texts = ["one", "two", "xyzzy", "three"]
    results = load_aligner("mfa", **settings).align(batch(*texts))
    assert reasons(results) == [reason if text == "xyzzy" else None for text in texts]
    assert len(calls()) <= 8


def test_a_program_that_always_fails_is_run_a_few_times_only(fake, monkeypatch):
    monkeypatch.setattr(mfa, "FAILURES", 1)
    settings, calls = fake("crash")
    results = load_aligner("mfa", **settings).align(batch(*["word"] * 9))
    assert set(reasons(results)) == {"align.backend_error"}
    assert len(calls()) == 1 + 2 * mfa.FAILURES


def test_a_wrong_command_line_is_tried_once(fake):
    settings, calls = fake("usage")
    assert set(reasons(load_aligner("mfa", **settings).align(batch(*["word"] * 9)))) == {
        "align.backend_error"
    }
    assert len(calls()) == 1


def test_a_usage_error_is_the_text_inside_its_box(fake):
    settings, _ = fake("usage")
    (result,) = load_aligner("mfa", **settings).align(batch("one"))
    assert result.reject.detail == (
        "mfa: exit status 2: Invalid value for 'DICTIONARY_PATH': english_us_arpa could not be found."
    )


def test_a_model_that_is_not_installed_is_refused_before_any_work(fake, tmp_path):
    settings, _ = fake("no model")
    with pytest.raises(
        Unusable, match=r"mfa.dictionary 'english_us_arpa': .*ModelLoadError: .* No model named english"
    ):
        load_aligner("mfa", **settings)
    with pytest.raises(Unusable, match=r"mfa.acoustic_model '/nothing.zip': no such file"):
        load_aligner("mfa", **{**fake()[0], "acoustic_model": "/nothing.zip"})


def test_wrong_transcripts_that_the_retry_beam_aligns_are_rejected_by_their_likelihood(fake):
    settings, _ = fake()
    results = load_aligner("mfa", **settings).align(batch("one", "wrong", "two", "three"))
    assert reasons(results) == [None, "align.low_quality", None, None]
    assert results[1].reject.detail == "log likelihood per frame -58.4 is below -53.5"
    assert results[1].quality["overall_log_likelihood"] == -58.4
    assert set(reasons(load_aligner("mfa", **settings).align(batch("wrong", "wrong")))) == {
        "align.low_quality"
    }
    kept = load_aligner("mfa", **settings, likelihood_margin=None, minimum_likelihood=None)
    assert reasons(kept.align(batch("wrong", "one"))) == [None, None]


def test_an_utterance_too_short_for_features_costs_itself_only(fake):
    settings, calls = fake()
    pairs = batch("one", "two", "three")
    pairs[1] = (pairs[1][0], pairs[1][1][:1500])
    results = load_aligner("mfa", **settings).align(pairs)
    assert reasons(results) == [None, "align.unalignable", None]
    assert len(calls()) == 1


def test_two_runs_with_different_hash_seeds_give_the_same_bytes(fake):
    settings, _ = fake("3.4 table")
    code = (
        "import sys, numpy as np; from aligners import load_aligner; from corpus.records import Utterance\n"
        "wave = np.zeros(32000, np.float32)\n"
        f"aligner = load_aligner('mfa', **{settings!r})\n"
        "print(aligner.align([(Utterance(n, 'u.wav', 32000, text='hi you'), wave) for n in 'ab']))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outputs) == 1
    assert "hi" in outputs.pop()


def test_nothing_outlives_a_worker_that_is_killed(fake, tmp_path):
    settings, _ = fake("hang")
    code = (
        "import numpy as np; from aligners import load_aligner; from corpus.records import Utterance\n"
        f"aligner = load_aligner('mfa', **{settings!r})\n"
        "aligner.align([(Utterance('a', 'u.wav', 32000, text='hi'), np.zeros(32000, np.float32))])"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    child = tmp_path / "log.child"
    wait_until(lambda: child.exists() and child.read_text())
    worker.kill()
    worker.wait()
    wait_until(lambda: not is_running(int(child.read_text())) and not list((tmp_path / "scratch").iterdir()))


def test_a_step_in_which_mfa_fails_for_every_utterance_fails_with_exit_code_1(fake, tmp_path, spoken_corpus):
    from click.testing import CliRunner

    import wordweave

    run = lambda *words: CliRunner().invoke(wordweave.cli, [*map(str, words)])  # noqa: E731
    build = tmp_path / "build"
    assert run("ingest", "jsonl", spoken_corpus, build).exit_code == 0
    settings, _ = fake("crash")
    options = ["--backend", "mfa", "--engine", "local", "--mfa-command"]
    done = run("align", build, *options, settings["command"])
    assert done.exit_code == 1, done.output
    assert "24 rejected as align.backend_error, the first because: mfa: exit status 1: OSError" in done.stderr
    settings, _ = fake("no model")
    done = run("align", build, *options, settings["command"])
    assert done.exit_code == 2, done.output
    assert "wordweave mfa download dictionary english_us_arpa" in done.stderr


def test_parts_are_aligned_in_one_start_and_again_with_the_same_bytes(fake, tmp_path, spoken_corpus):
    from click.testing import CliRunner

    import wordweave

    settings, calls = fake()
    build = tmp_path / "build"
    backend = ["--backend", "mfa", "--mfa-command", settings["command"], "--engine", "local"]
    for words in (["ingest", "jsonl", spoken_corpus, build], ["align", build, *backend]):
        done = CliRunner().invoke(wordweave.cli, [*map(str, words)])
        assert done.exit_code == 0, done.output
    tables = {path: path.read_bytes() for path in sorted((build / "words").glob("*.parquet"))}
    assert len(tables) > 1
    assert [len(call["texts"]) for call in calls()] == [24]
    ids = [pq.read_table(path)["id"].to_pylist() for path in tables]
    assert ids == [
        pq.read_table(path)["id"].to_pylist() for path in sorted((build / "manifest").glob("*.parquet"))
    ]
    next(iter(tables)).unlink()
    assert CliRunner().invoke(wordweave.cli, ["align", str(build), *backend]).exit_code == 0
    assert {path: path.read_bytes() for path in tables} == tables
    assert [len(call["texts"]) for call in calls()] == [24, 24]


def test_an_interrupted_command_ends_with_one_line_and_leaves_nothing(fake, tmp_path, spoken_corpus):
    settings, _ = fake("hang")
    run = [sys.executable, "-m", "wordweave"]
    build = tmp_path / "build"
    environment = {**os.environ, "TMPDIR": settings["scratch"]}
    ingest = [*run, "ingest", "jsonl", str(spoken_corpus), str(build)]
    subprocess.run(ingest, check=True, cwd=ROOT, capture_output=True)
    words = [
        *run,
        "align",
        str(build),
        "--backend",
        "mfa",
        "--mfa-command",
        settings["command"],
        "--engine",
        "local",
    ]
    restore = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731  (ignored in background jobs)
    with subprocess.Popen(
        words, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=restore
    ) as command:
        child = tmp_path / "log.child"
        wait_until(lambda: child.exists() and child.read_text())
        command.send_signal(signal.SIGINT)
        error = command.communicate(timeout=60)[1]
    assert command.returncode == 1
    assert "Traceback" not in error, error
    wait_until(lambda: not is_running(int(child.read_text())))
    assert not list((tmp_path / "scratch").glob("wordweave-mfa-*"))


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_disk_that_is_full_is_a_reason_and_nothing_is_left_on_it(fake, tmp_path):
    settings, _ = fake("fills the disk")
    (result,) = load_aligner("mfa", **settings).align(batch("one"))
    assert result.reject.reason == "align.backend_error"
    assert "File too large" in result.reject.detail
    assert list((tmp_path / "scratch").iterdir()) == []


def test_no_room_for_the_corpus_is_a_reason(fake, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    settings, _ = fake()
    aligner = load_aligner("mfa", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(mfa.soundfile, "write", full)
        (result,) = aligner.align(batch("one"))
    assert result.reject.reason == "align.backend_error"
    assert "No space left" in result.reject.detail
    assert reasons(aligner.align(batch("one"))) == [None]
    assert list((tmp_path / "scratch").iterdir()) == []


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_an_aligner_that_hangs_is_stopped_with_its_children(fake, tmp_path):
    settings, _ = fake("hang")
    start = time.monotonic()
    results = load_aligner("mfa", **{**settings, "timeout_seconds": 2.0, "timeout_per_second": 0.0}).align(
        batch("one")
    )
    assert reasons(results) == ["align.timeout"]
    assert time.monotonic() - start < 15
    child = int((tmp_path / "log.child").read_text())
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_server_that_left_the_group_is_stopped_too(fake, tmp_path):
    settings, _ = fake("leaves a server")
    assert reasons(load_aligner("mfa", **settings).align(batch("one"))) == [None]
    child = int((tmp_path / "log.child").read_text())
    deadline = time.monotonic() + 5
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def test_what_else_has_the_users_root_in_its_environment_is_left_alone(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("MFA_ROOT_DIR", str(tmp_path))
    other = subprocess.Popen(["sleep", "600"])
    try:
        settings, _ = fake()
        assert reasons(load_aligner("mfa", **settings).align(batch("one"))) == [None]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_it_is_asked_to_end_before_it_is_ended_for_a_container_hears_of_nothing_else(fake, tmp_path):
    settings, _ = fake("ends when asked")
    settings |= {"timeout_seconds": 1.5, "timeout_per_second": 0.0}
    assert reasons(load_aligner("mfa", **settings).align(batch("one"))) == ["align.timeout"]
    assert (tmp_path / "log.asked").read_text() == "yes"


def test_a_prefix_starts_it_where_users_have_it(fake):
    settings, calls = fake()
    settings["command"] = f"env A=1 nice -n 1 {settings['command']}"
    assert reasons(load_aligner("mfa", **settings).align(batch("one"))) == [None]
    assert calls()[0]["arguments"][0] == "align"


def test_a_profile_of_the_user_does_not_reach_it(fake, monkeypatch):
    monkeypatch.setenv("MFA_PROFILE", "mine")
    settings, _ = fake()
    assert reasons(load_aligner("mfa", **settings).align(batch("one"))) == [None]


def test_a_whole_build_is_written_as_a_corpus(spoken_corpus, tmp_path):
    from click.testing import CliRunner

    import wordweave

    run = lambda *words: CliRunner().invoke(wordweave.cli, [*map(str, words)])  # noqa: E731
    assert run("ingest", "jsonl", spoken_corpus, tmp_path / "build").exit_code == 0
    done = run("mfa", "corpus", tmp_path / "build", tmp_path / "corpus")
    assert done.exit_code == 0, done.output
    assert "utterances=24" in done.stdout
    utterances = list(read_jsonl(spoken_corpus))
    assert len(list((tmp_path / "corpus").iterdir())) == len({one.speaker for one in utterances})
    labs = sorted((tmp_path / "corpus").rglob("*.lab"), key=lambda path: path.name)
    assert [len(lab.read_text().split()) for lab in labs] == [len(one.text.split()) for one in utterances]
    assert all(lab.with_suffix(".wav").is_file() for lab in labs)


def test_a_build_behind_a_url_is_exported_too(spoken_corpus, tmp_path):
    from click.testing import CliRunner

    import wordweave

    run = lambda *words: CliRunner().invoke(wordweave.cli, [*map(str, words)])  # noqa: E731
    assert run("ingest", "jsonl", spoken_corpus, "memory://exported/build").exit_code == 0
    done = run("mfa", "corpus", "memory://exported/build", tmp_path / "corpus")
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "corpus").rglob("*.wav"))) == 24


def test_a_program_that_cannot_say_its_version_is_refused_with_the_way_out(fake, tmp_path):
    settings, _ = fake("broken")
    with pytest.raises(ValueError, match=r"`version` failed .*_kalpy.*conda env create"):
        load_aligner("mfa", **settings)
    with pytest.raises(ValueError, match="cannot be started"):
        load_aligner("mfa", command=str(tmp_path / "nothing"))


def test_installed_models_are_seen_from_a_root_of_its_own(fake, tmp_path, monkeypatch):
    (tmp_path / "home" / "pretrained_models" / "acoustic").mkdir(parents=True)
    (tmp_path / "home" / "pretrained_models" / "acoustic" / "mine.zip").write_text("model")
    monkeypatch.setenv("MFA_ROOT_DIR", str(tmp_path / "home"))
    settings, calls = fake()
    load_aligner("mfa", **settings).align(batch("one"))
    (call,) = calls()
    assert call["models"]
    assert call["root"] != str(tmp_path / "home")


def test_models_that_it_writes_stay_out_of_the_users_root(fake, tmp_path, monkeypatch):
    models = tmp_path / "home" / "pretrained_models" / "acoustic"
    models.mkdir(parents=True)
    (models / "english_us_arpa.zip").write_text("model")
    monkeypatch.setenv("MFA_ROOT_DIR", str(tmp_path / "home"))
    settings, _ = fake("writes models")
    assert reasons(load_aligner("mfa", **settings).align(batch("one"))) == [None]
    assert [path.name for path in models.iterdir()] == ["english_us_arpa.zip"]


def test_speakers_have_folders_of_their_own(fake, tmp_path):
    items = [*batch("one", speaker="a/../b"), *batch("two", speaker=None), *batch("three", speaker="a/../b")]
    prepared = [mfa.AlignerInput(utterance, (), wave) for utterance, wave in items]
    mfa.write_corpus(prepared, tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.wav")) == [
        "s000000/u000000.wav",
        "s000000/u000002.wav",
        "s000001/u000001.wav",
    ]


@pytest.mark.parametrize(
    ("version", "verb"), [("3.3.8", "align"), ("3.4.3", "align"), ("4.0.0a1", "align_legacy")]
)
def test_the_command_line_follows_the_version(version, verb):
    settings = MfaSettings(command="conda run -n a mfa", g2p_model="g2p.zip", single_speaker=True)
    assert align_command(settings, version, Path("/x"), 10, 40) == [
        *[
            "conda",
            "run",
            "-n",
            "a",
            "mfa",
            verb,
            "/x/corpus",
            "english_us_arpa",
            "english_us_arpa",
            "/x/output",
        ],
        *[
            "--output_format",
            "json",
            "--temporary_directory",
            "/x/temporary",
            "--beam",
            "10",
            "--retry_beam",
            "40",
        ],
        *[
            "--num_jobs",
            "2",
            "--clean",
            "--overwrite",
            "--quiet",
            "--single_speaker",
            "--g2p_model_path",
            "g2p.zip",
        ],
    ]


def test_the_version_is_part_of_the_identity(fake):
    identities = [load_aligner("mfa", **fake(version=version)[0]).identity for version in ("3.4.1", "3.4.3")]
    assert identities[0].startswith("mfa-3.4.1-")
    assert identities[0] != identities[1]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["download", "acoustic", "english_us_arpa"], "model download acoustic english_us_arpa"),
        (["g2p", "words.txt", "m", "d.dict"], "g2p words.txt m d.dict"),
        (["train", "my corpus", "d.dict", "m.zip"], "train 'my corpus' d.dict m.zip"),
        (["validate", "corpus", "d.dict"], "validate --ignore_acoustics corpus d.dict"),
    ],
)
def test_tools_print_the_command_they_run_and_run_it(words, line, tmp_path):
    from click.testing import CliRunner

    import wordweave

    program = tmp_path / "mfa"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\nexit ${{STATUS:-0}}\n')
    program.chmod(0o755)
    run = lambda *more: CliRunner().invoke(wordweave.cli, ["mfa", *words, *more])  # noqa: E731
    dry = run("--dry-run", "--mfa-command", "conda run mfa")
    assert (dry.exit_code, dry.stderr.strip()) == (0, f"conda run mfa {line}")
    assert run("--mfa-command", str(program)).exit_code == 0
    assert (tmp_path / "arguments").read_text().strip() == line.replace("'", "")
    failed = run("--mfa-command", f"env STATUS=3 {program}")
    assert failed.exit_code == 1
    assert "exit status 3" in failed.output
    assert "cannot be started" in run("--mfa-command", str(tmp_path / "nothing")).output


@pytest.fixture(params=["fake", "real"])
def either(request, fake):
    """Settings of the fake, and of a real MFA where `mfa version` answers (command: WORDWEAVE_MFA)."""
    if request.param == "fake":
        return fake()[0]
    command = os.environ.get("WORDWEAVE_MFA", "mfa")
    try:
        mfa.find_version(command)
    except ValueError as error:
        pytest.skip(str(error))
    return {"command": command}


def test_spoken_sentences_keep_their_words(either, spoken_corpus):
    utterances = list(read_jsonl(spoken_corpus))[:6]
    results = load_aligner("mfa", **either).align(
        [(utterance, decode(utterance)) for utterance in utterances]
    )
    for utterance, result in zip(utterances, results):
        assert result.reject is None, result.reject
        assert [word.text for word in result.words] == utterance.text.split()
