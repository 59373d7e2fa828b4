"""A stub of the Montreal Forced Aligner: a program with the behaviours that its users meet."""

import hashlib
import io
import json
import stat
import sys

import soundfile

FAKE = '''#!{python}
"""An `mfa` that spreads the words of every .lab evenly and misbehaves as {behaviour} says.

Where it recognises, it knows the true words and times of recordings by their first two seconds, and its likelihood of
other words is that of the real one: MFA 3.4.3 with a small model gave 249 right transcripts at least -49.6, 20 wrong
ones at most -58.4.
"""
import csv, hashlib, json, os, pathlib, signal, subprocess, sys, time, wave

behaviour = {behaviour!r}
log = pathlib.Path({log!r})
if sys.argv[1] == "version":
    if behaviour == "broken":
        print("ModuleNotFoundError: No module named '_kalpy'")
        sys.exit(1)
    print({version!r})
    sys.exit(0)
if sys.argv[1] == "model":
    if behaviour == "no model" and sys.argv[3] == "dictionary":
        print("Traceback (most recent call last):")
        print("montreal_forced_aligner.exceptions.ModelLoadError: The model could not be loaded:")
        print()
        print("  No model named " + sys.argv[4])
        sys.exit(1)
    sys.exit(0)
assert (os.environ["COLUMNS"], os.environ["NO_COLOR"]) == ("1000", "1")
print(" INFO     Setting up corpus information...", file=sys.stderr)  # --quiet or not
words = sys.argv[2:]
corpus, dictionary, model, output = map(pathlib.Path, words[:4])
options = dict(zip(words[4:], words[5:]))
labs = sorted(corpus.rglob("*.lab"))
entry = {{"arguments": sys.argv[1:], "root": os.environ["MFA_ROOT_DIR"], "texts": [lab.read_text() for lab in labs],
         "models": os.path.exists(os.environ["MFA_ROOT_DIR"] + "/pretrained_models/acoustic")}}
log.write_text(log.read_text() + json.dumps(entry) + "\\n" if log.exists() else json.dumps(entry) + "\\n")
wide = int(options["--beam"]) >= 100
temporary = pathlib.Path(options["--temporary_directory"])
assert temporary.is_dir() and pathlib.Path(os.environ["MFA_ROOT_DIR"]).is_dir()
assert not corpus.is_relative_to(temporary) and not output.is_relative_to(temporary)  # it would clean them away
assert "MFA_PROFILE" not in os.environ
if behaviour == "blocks on one" and any("xyzzy" in lab.read_text() for lab in labs):
    time.sleep(600)
if behaviour == "crashes on one" and any("xyzzy" in lab.read_text() for lab in labs):
    sys.exit("RuntimeError: broken wave")
if behaviour == "leaves a server":
    server = subprocess.Popen(["sleep", "600"], start_new_session=True)
    pathlib.Path({log!r} + ".child").write_text(str(server.pid))
if behaviour == "ends when asked":
    def tidy(*_):
        pathlib.Path({log!r} + ".asked").write_text("yes")
        sys.exit(143)
    signal.signal(signal.SIGTERM, tidy)
    time.sleep(600)
if behaviour == "fills the disk":
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    (output / "big").write_bytes(b"0" * (1 << 20))
if behaviour == "hang":
    child = subprocess.Popen(["sleep", "600"])
    pathlib.Path({log!r} + ".child").write_text(str(child.pid))
    time.sleep(600)
if behaviour == "garbage":
    sys.stdout.buffer.write(os.urandom(1 << 20))
    sys.exit(1)
if behaviour == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "usage":
    print("Usage: mfa align [OPTIONS] CORPUS_DIRECTORY DICTIONARY_PATH", file=sys.stderr)
    print("\\x1b[2mTry 'mfa align -h' for help\\x1b[0m", file=sys.stderr)
    print("\u256d\u2500 Error " + "\u2500" * 60 + "\u256e", file=sys.stderr)
    for line in ("Invalid value for 'DICTIONARY_PATH': " + str(dictionary), "could not be found."):
        print("\u2502 " + line.ljust(66) + " \u2502", file=sys.stderr)
    print("\u2570" + "\u2500" * 68 + "\u256f", file=sys.stderr)
    sys.exit(2)
if behaviour == "crash":
    print("Exception ignored in atexit callback: <bound method ExitHooks.history_save_handler>", file=sys.stderr)
    print("Traceback (most recent call last):", file=sys.stderr)
    print("OSError: [Errno 28] No space left on device: " + str(temporary / "x.mfcc"), file=sys.stderr)
    print("", file=sys.stderr)
    print(" For more information, please see the log of " + str(temporary), file=sys.stderr)
    sys.exit(1)
if any(lab.with_suffix(".wav").stat().st_size < 44 + 2 * 1600 for lab in labs):
    print("montreal_forced_aligner.exceptions.FeatureGenerationError: There was an error generating features")
    sys.exit(1)
if behaviour == "writes models":
    (pathlib.Path(os.environ["MFA_ROOT_DIR"]) / "pretrained_models" / "acoustic" / "new.zip").write_text("x")
if behaviour == "none" or (behaviour == "none at first" and not wide):
    print("NoAlignmentsError: There were no successful alignments")
    sys.exit(1)
analysis = []
for place, lab in enumerate(labs):
    if "xyzzy" in lab.read_text() and not (wide and behaviour == "found by the wide beam"):
        continue
    with wave.open(str(lab.with_suffix(".wav"))) as sound:
        assert (sound.getframerate(), sound.getsampwidth(), sound.getnchannels()) == (16000, 2, 1)
        seconds = sound.getnframes() / 16000
        start = hashlib.sha256(sound.readframes(32000)).hexdigest()
    labels = lab.read_text().split()
    if behaviour == "splits":
        labels = [part for label in labels for part in label.replace("'s", " 's").split()]
    if behaviour == "unknown":
        labels = ["<unk>" if label == "zyxel" else label for label in labels]
    if behaviour == "letters apart":
        labels = [part for label in labels for part in (list(label[:-2]) + ["'s"] if label.endswith("'s") else [label])]
    if behaviour == "other words":
        labels = labels[:-1] + ["nonsense"]
    step = seconds / (len(labels) + 1)
    entries = [[step * i, step * (i + 1), label] for i, label in enumerate(labels)]
    likelihood = -58.4 if "wrong" in lab.read_text() else -45.5
    if behaviour == "recognises":
        known = json.loads(pathlib.Path({log!r} + ".known").read_text())[start]
        if labels == [label for _, _, label in known]:
            entries = known
        else:
            likelihood = -58.4
    if behaviour == "overlaps at the end" and len(entries) > 1:
        entries[-2][1] += 0.02
        entries[-1][1] = seconds
    if behaviour == "grid":
        entries = [[round(b, 2) - 1e-6 * (b > 0), round(e, 2) + 0.019, label] for b, e, label in entries]
        entries = [[b, min(e, seconds), label] for b, e, label in entries]
        entries[-1][1] = seconds
    tier = lab.parent.name + " - " if behaviour == "tiers of speakers" else ""
    tiers = {{tier + "words": {{"type": "interval", "entries": entries}},
             tier + "phones": {{"type": "interval", "entries": [[0.0, step, "AH0"], [step, 2 * step, "sil"]]}}}}
    target = output / lab.parent.name / (lab.stem + ("_aligned" if behaviour == "other name" else "") + ".json")
    if behaviour == "cannot export" and place == 0:
        (output / "output_errors.txt").write_text(
            "The following exceptions were encountered during the output of the alignments:\\n\\n"
            + str(temporary / lab.parent.name / lab.stem) + ":\\nTraceback (most recent call last):\\n"
            + "  File x\\nKeyError: 12\\n\\n")
        continue
    target.parent.mkdir(exist_ok=True)
    text = json.dumps({{"start": 0, "end": seconds, "tiers": tiers}})
    target.write_text(text[:20] if behaviour == "half a file" else text)
    analysis.append([lab.stem, 0, seconds, lab.parent.name, likelihood, -47.0, 3.0, 9.5])
header = "file,begin,end,speaker,overall_log_likelihood,speech_log_likelihood,phone_duration_deviation,snr".split(",")
if behaviour == "3.4 table":
    header.insert(7, "max_running_short_interval")
    analysis = [row[:7] + [hash("x") % 1000] + row[7:] + [""] for row in analysis]  # never reset: differs by run
    header.append("intensity_deviation")
with open(output / "alignment_analysis.csv", "w", newline="") as file:
    csv.writer(file).writerows([header, *analysis])
'''


def write_fake_mfa(folder, behaviour="well", version="3.4.3"):
    """Write the program; (settings of the aligner, function that reads the arguments that it received)."""
    program, log = folder / "mfa", folder / "log"
    program.write_text(FAKE.format(python=sys.executable, behaviour=behaviour, log=str(log), version=version))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)

    def calls():
        return [json.loads(line) for line in log.read_text().splitlines()]

    return {"command": str(program), "scratch": str(scratch), "timeout_seconds": 20.0}, calls


def teach(folder, recordings):
    """Tell a program that recognises recordings: waveforms at 16 kHz of at least 2 s, each with its words."""
    known = {}
    for wave, words in recordings:
        buffer = io.BytesIO()
        soundfile.write(buffer, wave[:32_000], 16_000, "PCM_16", format="WAV")
        buffer.seek(0)
        start = soundfile.read(buffer, dtype="int16")[0]
        known[hashlib.sha256(start.tobytes()).hexdigest()] = [
            [word.start, word.end, word.spoken] for word in words
        ]
    (folder / "log.known").write_text(json.dumps(known))
