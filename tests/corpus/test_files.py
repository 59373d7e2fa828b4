import errno
import json
import os

import pytest

from corpus import files
from corpus.records import Unusable


class Store:
    """An object store with one bucket, "speech"; its errors hold the path, as those of s3fs do."""

    def __init__(self, path):
        self.path = path

    def cat_file(self, path):
        raise FileNotFoundError(f"no such key or bucket: {path}")

    pipe_file = None

    def exists(self, bucket):
        return bucket == "speech" or bucket.startswith("my-bucket")


class Url:
    """A path in `Store`."""

    def __init__(self, url):
        self.url, self.path = url, url.partition("://")[2]
        self.fs = Store(self.path)

    def __truediv__(self, name):
        return Url(f"{self.url}/{name}")

    def __str__(self):
        return self.url


@pytest.mark.parametrize("url", ["s3://my-bucket/build", "gs://speech/a/bucket/of/words", "s3://my-bucket"])
def test_a_url_with_the_word_bucket_in_it_can_be_read(url):
    files.check_reachable(Url(url))


@pytest.mark.parametrize("url", ["s3://speach/build", "gs://none"])
def test_a_bucket_that_does_not_exist_is_named_in_one_line(url):
    with pytest.raises(Unusable, match=f"{url}: no such bucket"):
        files.check_reachable(Url(url))


def fail_while_writing(path, error):
    with files.writing(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def test_a_failed_write_leaves_the_old_bytes_and_no_temporary_file(tmp_path):
    files.write(tmp_path / "a.json", b"old")
    with pytest.raises(ValueError, match="no"):
        fail_while_writing(tmp_path / "a.json", ValueError("no"))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.json": b"old"}


def test_a_full_disk_is_named_with_the_file_that_was_not_written(tmp_path):
    with pytest.raises(OSError, match=f"the disk of {tmp_path} is full; .*a.json was not written"):
        fail_while_writing(tmp_path / "a.json", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))


def test_temporary_names_are_known_to_the_rule_and_other_names_are_not(tmp_path):
    for path in (tmp_path / "a.json", tmp_path / "units" / "part-00000.parquet"):
        name = files.temporary_name(path).relative_to(tmp_path)
        assert files.TEMPORARY.fullmatch(str(name))
    unfinished = files.unfinished_name(tmp_path / "manifest").relative_to(tmp_path)
    assert files.TEMPORARY.fullmatch(f"{unfinished}/part-00000.parquet")
    for name in ("a.json", "a.tmp-1-00000000", ".hidden", "units/.a.tmp-x", "manifest/part-00000.parquet"):
        assert not files.TEMPORARY.fullmatch(name)


def test_a_record_is_read_when_format_version_and_fields_fit(tmp_path):
    record = {"format": "wordweave demo", "version": 1, "items": [1]}
    (tmp_path / "a.json").write_text(json.dumps(record))
    assert files.read_record(tmp_path / "a.json", "items", format="wordweave demo", version=1) == record
    assert files.read_record(tmp_path / "a.json") == record


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "need JSON"),
        (b"\xff\xfe\x00", "need JSON"),
        (b"[" * 100_000, "need JSON"),
        (b"3", "need a JSON object, got 3"),
        (b'"text"', "need a JSON object"),
        (b"{}", 'format: need "wordweave demo", got none'),
        (b'{"format": [1]}', r'format: need "wordweave demo", got \[1\]'),
        (b'{"format": "wordweave demo", "version": 2}', "version: need 1, got 2"),
        (b'{"format": "wordweave demo", "version": 1}', "need the field 'items', got none"),
    ],
)
def test_an_unusable_record_is_one_line_that_names_the_file_and_the_rule(tmp_path, content, line):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.json: not a usable wordweave demo: {line}") as raised:
        files.read_record(tmp_path / "a.json", "items", format="wordweave demo", version=1)
    assert "\n" not in str(raised.value)


def test_a_record_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json: cannot be read"):
        files.read_record(tmp_path / "gone.json")
