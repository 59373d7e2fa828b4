import bz2
import gzip
import json
import lzma
import os
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import documents
from corpus.documents import read_documents, write_documents
from corpus.duplicates import ALIKE
from corpus.minhash import signatures, similarity, text_grams, words_of
from corpus.text_files import open_text

WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in ("n", "st", "lo", "")]


def rows_of(*paths):
    return [tuple(row.values())[1:3] for row in read_documents(list(paths))]


def written(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def story(rng, words):
    return " ".join(WORDS[i] for i in rng.integers(0, len(WORDS), words))


def rows(texts):
    return ({"id": f"d-{i}", "text": text, "reject": None, "detail": None} for i, text in enumerate(texts))


def test_three_kinds_of_file_hold_the_same_documents(tmp_path):
    texts = ["they went out", "and came home", "in spring"]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": text, "n": 1}) + "\n" for text in texts))
    pq.write_table(pa.table({"n": [1, 2, 3], "text": texts}), tmp_path / "c.parquet")
    for name in ("a.txt", "b.jsonl", "c.parquet"):
        assert rows_of(tmp_path / name) == [(text, None) for text in texts]
    ids = [row["id"] for row in read_documents([tmp_path / "a.txt", tmp_path / "c.parquet"])]
    assert ids == [f"a=2Etxt-000000000{i}" for i in (1, 3, 5)] + [
        f"c=2Eparquet-000000000{i}" for i in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_any_arrow_type_of_text_is_read(tmp_path, kind):
    values = pa.array(["they went", None, "home"] * 200)
    column = values.dictionary_encode() if pa.types.is_dictionary(kind) else values.cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    expected = [("they went", None), (None, "text.empty"), ("home", None)] * 200
    assert rows_of(tmp_path / "a.parquet") == expected


def test_bad_rows_carry_their_reasons_and_stop_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "DOCUMENT_BYTES", 100)
    lines = [
        (b'{"text": "good"}', None),
        (b"{", "manifest.not_json"),
        (b"[" * 98, "manifest.not_json"),
        (b'["text"]', "manifest.missing_field"),
        (b'{"text": 3}', "manifest.missing_field"),
        (b'{"text": " "}', "manifest.missing_field"),
        (b'{"text": "\\ud800 x"}', "manifest.bad_field"),
        (b'{"text": "\xff"}', "manifest.bad_field"),
        (b'{"text": "!?"}', "text.empty"),
        (b'{"text": "' + b"a" * 300 + b'"}', "manifest.bad_field"),
        (b'{"text": "good too"}', None),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(line for line, _ in lines))
    rows_read = list(read_documents([tmp_path / "a.jsonl"]))
    assert [row["reject"] for row in rows_read] == [reason for _, reason in lines]
    assert [row["id"][-2:] for row in rows_read] == [f"{i:02d}" for i in range(1, 12)]
    binary = pa.array([b"good", b"\xff", b"", b"b" * 300])
    text = pa.Array.from_buffers(pa.string(), 4, binary.buffers())  # what a careless writer makes
    pq.write_table(pa.table({"text": text}), tmp_path / "b.parquet")
    reasons = [None, "manifest.bad_field", "text.empty", "manifest.bad_field"]
    assert [reason for _, reason in rows_of(tmp_path / "b.parquet")] == reasons
    summary = write_documents(read_documents([tmp_path / "a.jsonl", tmp_path / "b.parquet"]), tmp_path / "t")
    assert summary.documents == 3
    assert summary.rejected == {
        "manifest.bad_field": 5,
        "manifest.missing_field": 3,
        "manifest.not_json": 2,
        "text.empty": 2,
    }


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", None])
def test_a_file_that_is_no_parquet_with_text_is_named(tmp_path, content):
    path = tmp_path / "a.parquet"
    if content is None:
        pq.write_table(pa.table({"words": ["a"]}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as Parquet"):
        list(read_documents([path]))


def test_a_missing_file_and_two_of_one_name_are_refused(tmp_path):
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a.txt", tmp_path / "b/a.txt"):
        path.write_text("x")
    with pytest.raises(ValueError, match=r"no such file .*c\.txt"):
        list(read_documents([tmp_path / "c.txt"]))
    with pytest.raises(ValueError, match=r"different file names, got a\.txt twice"):
        list(read_documents([tmp_path / "a.txt", tmp_path / "b/a.txt"]))


def test_a_folder_with_a_pipe_or_a_link_to_nothing_is_refused_by_name(tmp_path):
    for name in ("pipe", "link"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe" / "b.txt")
    (tmp_path / "link" / "b.txt").symlink_to("gone.txt")
    for name in ("pipe", "link"):
        with pytest.raises(ValueError, match=rf"{name}/b\.txt: need an ordinary file; remove it"):
            list(read_documents([tmp_path / name]))


def test_long_file_names_give_different_keys_of_at_most_80_characters(tmp_path):
    names = [f"{'long name ' * 20}{i}.txt" for i in range(3)] + ["é" * 60 + ".txt"]
    for name in names:
        (tmp_path / name).write_text("one\ntwo")
    ids = [row["id"] for row in read_documents([tmp_path / name for name in names])]
    assert len(set(ids)) == 8
    assert max(map(len, ids)) == 80


@given(st.lists(st.text(max_size=30), max_size=20))
@settings(deadline=None, max_examples=50)
def test_every_document_comes_out_in_order_whatever_it_holds(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("texts") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    rows_read = list(read_documents([path]))
    assert len(rows_read) == len(texts)
    for row, text in zip(rows_read, texts):
        assert (row["text"] is None) != (row["reject"] is None)
        assert row["text"] in (None, text.strip())


def test_the_same_documents_are_left_untouched_and_others_replace_them(tmp_path):
    folder = tmp_path / "text"
    write_documents(rows(["one", "two"]), folder)
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}
    assert set(before) == {"part-00000.parquet", "text.json"}
    write_documents(rows(["one", "two"]), folder)
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()} == before
    write_documents(rows(["one", "three"]), folder)
    assert [row["text"] for row in written(folder)] == ["one", "three"]
    assert os.listdir(tmp_path) == ["text"]


def test_parts_end_by_rows_or_by_length(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROWS", 3)
    monkeypatch.setattr(documents, "PART_BYTES", 10)
    write_documents(rows(["a", "b", "c", "d" * 12, "e"]), tmp_path / "text")
    listed = json.loads((tmp_path / "text/text.json").read_text())["parts"]
    assert [part["rows"] for part in listed] == [3, 1, 1]


def test_memory_does_not_grow_with_the_documents(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROWS", 500)
    rng = np.random.default_rng(0)
    texts = [story(rng, 150) for _ in range(50)]

    def peak(count):
        tracemalloc.start()
        try:
            write_documents(rows(texts[i % 50] + f" {i}" for i in range(count)), tmp_path / "t")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # imports
    assert peak(6000) < 1.2 * peak(2000)


# Duplicates --------------------------------------------------------------------------------------------------------


def test_exact_duplicates_differ_in_case_punctuation_and_spaces_only(tmp_path):
    texts = ["They went out.", "they  WENT out", "they went in", "ﬁne", "fine!", "they went out"]
    summary = write_documents(rows(texts), tmp_path / "text", duplicates="exact")
    rows_read = written(tmp_path / "text")
    assert [row["reject"] for row in rows_read] == [None, "text.duplicate", None, None] + [
        "text.duplicate"
    ] * 2
    assert [row["detail"] for row in rows_read if row["reject"]] == [f"exact: as d-{i}" for i in (0, 3, 0)]
    assert [row["text"] for row in rows_read if row["reject"]] == [None] * 3
    assert (summary.documents, summary.rejected) == (3, {"text.duplicate": 3})
    assert write_documents(rows(texts), tmp_path / "all").documents == 6


def jaccard(one, other):
    """The slow, obvious similarity: of the sets of 5-word sequences."""
    sets = []
    for text in (one, other):
        words = words_of(text)
        sets.append({tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("changed", [0, 1, 3, 6, 10, 20, 60])
def test_a_signature_estimates_the_true_similarity(changed):
    rng = np.random.default_rng(changed)
    errors = []
    for _ in range(20):
        one = story(rng, 200)
        words = one.split()
        for place in rng.choice(200, changed, replace=False):
            words[place] = "other"
        other = " ".join(words)
        errors.append(similarity(*signatures([text_grams(one), text_grams(other)])) - jaccard(one, other))
    assert abs(np.mean(errors)) < 0.03
    assert np.max(np.abs(errors)) < 0.17


def test_near_duplicates_are_those_that_share_most_of_their_word_sequences(tmp_path):
    rng = np.random.default_rng(0)
    originals = [story(rng, 200) for _ in range(100)]
    near = [" ".join([*text.split()[3:], "and", "more"]) for text in originals]
    half = [" ".join(text.split()[:100]) + " " + story(rng, 100) for text in originals]
    assert min(jaccard(a, b) for a, b in zip(originals, near)) > 0.9
    assert max(jaccard(a, b) for a, b in zip(originals, half)) < 0.5
    write_documents(rows([*originals, *half, *near]), tmp_path / "text", duplicates="near")
    rows_read = written(tmp_path / "text")
    assert [row["reject"] for row in rows_read] == [None] * 200 + ["text.duplicate"] * 100
    assert [row["detail"] for row in rows_read[200:]] == [f"near: as d-{i}" for i in range(100)]


def test_short_documents_are_near_duplicates_only_of_themselves(tmp_path):
    texts = ["they went", "they went out", "they went", "went they", "a b c d e", "a b c d f"]
    write_documents(rows(texts), tmp_path / "text", duplicates="near")
    assert [row["reject"] is None for row in written(tmp_path / "text")] == [
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    assert 0 < ALIKE < 1


@pytest.mark.parametrize("how", ["exact", "near"])
def test_what_is_dropped_is_the_same_every_time(tmp_path, how):
    rng = np.random.default_rng(1)
    texts = [story(rng, int(rng.integers(1, 8))) for _ in range(300)]
    for name in ("a", "b"):
        write_documents(rows(texts), tmp_path / name, duplicates=how)
    assert written(tmp_path / "a") == written(tmp_path / "b")
    kept = [tuple(row["text"].split()) for row in written(tmp_path / "a") if row["text"]]
    assert len(kept) == len(set(kept)) == len({tuple(text.split()) for text in texts})


def test_another_way_to_find_duplicates_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"text\.duplicates: need one of keep, exact, near, got 'fuzzy'"):
        write_documents(rows(["a"]), tmp_path / "text", duplicates="fuzzy")


def test_a_build_counts_the_documents_it_rejects_and_keeps_the_others(tmp_path):
    from pipelines.build import run_step
    from pipelines.settings import Settings, replace

    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"id": "a", "audio": "a.wav", "text": "they went"}))
    pq.write_table(pa.table({"text": ["They went.", "they went", None]}), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("they came\nthey went\n")
    result = replace(Settings(), "corpus", source=str(tmp_path / "manifest.jsonl"))
    paths = [str(tmp_path / name) for name in ("a.parquet", "b.txt")]
    for how, kept, rejected in (
        ("keep", 4, {"text.empty": 1}),
        ("exact", 2, {"text.duplicate": 2, "text.empty": 1}),
    ):
        requested = replace(result, "text", documents=paths, duplicates=how)
        rows_read = run_step("ingest", tmp_path / "build", requested)
        assert (rows_read["documents"], rows_read["documents_rejected"]) == (kept, rejected)
    assert [row["text"] for row in written(tmp_path / "build/text")] == [
        "They went.", None, None, "they came", None,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"text\.duplicates: need one of keep, exact, near, got 'most'"):
        replace(result, "text", duplicates="most")


OBJECTS = [{"text": f"Document number {number}, größer."} for number in range(3)]
JSON_LINES = "\n".join(json.dumps(value, ensure_ascii=False) for value in OBJECTS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", JSON_LINES.encode()),
        ("a.JSONL", JSON_LINES.encode()),
        ("a.ndjson", JSON_LINES.encode()),
        ("a.json", json.dumps(OBJECTS, indent=1).encode()),
        ("a.txt", JSON_LINES.encode()),
        ("a", b"\xef\xbb\xbf" + JSON_LINES.encode()),
        ("a.jsonl.gz", gzip.compress(JSON_LINES.encode(), mtime=0)),
        ("a.jsonl.bz2", bz2.compress(JSON_LINES.encode())),
        ("a.xz", lzma.compress(JSON_LINES.encode())),
        ("a.txt.zst", pa.compress(JSON_LINES.encode(), "zstd", asbytes=True)),
        ("a.u16", JSON_LINES.encode("utf-16")),
        ("a.u32", JSON_LINES.encode("utf-32")),
        ("a.mac", JSON_LINES.replace("\n", "\r").encode()),
        ("a.plain", "\n".join(value["text"] for value in OBJECTS).encode()),
        (
            "a.plain.gz",
            gzip.compress("\n".join(value["text"] for value in OBJECTS).encode("utf-16-le"), mtime=0),
        ),
    ],
)
def test_what_a_file_of_documents_is_its_content_decides(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    rows = list(read_documents([tmp_path / name]))
    assert [row["text"] for row in rows] == [value["text"] for value in OBJECTS]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"%PDF-1.7\n" + bytes(99), "need text, got a PDF document"),
        (b"PK\x03\x04" + bytes(99), "need text, got a ZIP archive"),
        (bytes(range(256)) * 20, "need text, got binary data"),
        (gzip.compress(b"PK\x03\x04" + bytes(99), mtime=0), "need text, got a ZIP archive"),
        (gzip.compress(b"one line\n" * 9000, mtime=0)[:-40], "cannot be read as text"),
        (bz2.compress(b"one line\n" * 9000)[:-40], "cannot be read as text"),
        (lzma.compress(b"one line\n" * 9000)[:-40], "cannot be read as text"),
        (pa.compress(b"one line\n" * 9000, "zstd", asbytes=True)[:-10], "cannot be read as text"),
        (b'[{"text": "one"}, {"text"', "a JSON array that cannot be parsed"),
        ("one line\n".encode("utf-16")[:-1], "cannot be read as text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_text_or_breaks_off_is_refused_in_one_line(tmp_path, content, line):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"text.documents: .*a.txt: .*{line}") as raised:
        list(read_documents([tmp_path / "a.txt"]))
    assert "\n" not in str(raised.value)


def test_a_text_that_starts_with_a_bracket_is_text(tmp_path):
    (tmp_path / "a.txt").write_text("[1] A note.\n{not json}\n")
    assert [row["text"] for row in read_documents([tmp_path / "a.txt"])] == ["[1] A note.", "{not json}"]


def test_a_folder_is_read_in_order_and_a_file_can_be_one_document(tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "one.txt").write_text("first line\n\nsecond line\n")
    (folder / "a.txt.gz").write_bytes(gzip.compress("they went\nout".encode("utf-16")))
    (folder / "c.jsonl").write_text('{"text": "in JSON"}\n{"text": "twice"}\n')
    (folder / ".hidden").write_text("not read")
    (folder / "b" / "loop").symlink_to(folder)
    lines, whole = (
        {row["id"]: row["text"] for row in read_documents([folder], whole_files=whole)}
        for whole in (False, True)
    )
    assert list(lines.values()) == ["they went", "out", "in JSON", "twice", "first line", "second line"]
    assert list(whole.values()) == ["they went out", "in JSON", "twice", "first line second line"]
    assert list(whole)[-1] == "texts=2Fb=2Fone=2Etxt-0000000001"


def test_documents_in_other_languages_are_rejected_by_name(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text(
        "The weather was fine, and they went out together.\n"
        "Der Lappen liegt auf dem Eisschrank, und morgen kommt er weg.\n"
    )
    summary = write_documents(read_documents([path]), tmp_path / "text", languages=["en"])
    assert (summary.documents, summary.rejected) == (1, {"text.language": 1})
    (detail,) = pq.read_table(tmp_path / "text/part-00000.parquet")["detail"].drop_null().to_pylist()
    assert detail == "need en, got de (most probable, by py3langid)"


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_an_array_is_read_in_pieces(tmp_path, monkeypatch, block):
    monkeypatch.setattr("corpus.text_files.BLOCK", block)
    values = [
        {"text": 'ö "\\ [1, 2],'},
        "x",
        12345,
        {"text": "\U0001f600", "a": [1.5, None, {"b": []}]},
        [],
        True,
    ]
    path = tmp_path / "array.json"
    path.write_text("\n " + json.dumps([{"text": "first"}, *values], ensure_ascii=False, indent=2) + "\n")
    with open_text(path) as file:
        read = list(file.json_values(1 << 20))
    assert [json.loads(value) for _, value in read] == [{"text": "first"}, *values]


def test_a_decompression_bomb_takes_no_memory(tmp_path):
    path = tmp_path / "bomb.json.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'[{"text": "a"}' + b', {"text": "the same words"}' * 5_000 + b', "' + b"x" * 40_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="a JSON array that cannot be parsed"), open_text(path) as file:
        for _ in file.json_values(1 << 20):
            pass
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()
