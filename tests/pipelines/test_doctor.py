"""`wordweave doctor`: one line a finding, exit 1 only where something is wrong."""

import json

import pytest
from click.testing import CliRunner

import wordweave
from pipelines.engines.requirements import find_java
from pipelines.operations import doctor


def states(build=None, only=None):
    checks = {name: check for name, check in doctor.CHECKS.items() if only is None or name in only}
    return {finding.name: finding for finding in doctor.examine(build, checks)}


def test_every_check_runs_and_none_raises():
    import torch

    findings = states()
    assert findings.keys() == doctor.CHECKS.keys()
    assert {finding.state for finding in findings.values()} <= {"ok", "missing", "wrong"}
    assert findings["torch"].detail.startswith(f"torch {torch.__version__}, torchaudio ")
    assert findings["torch"].state == findings["faiss"].state == "ok"
    assert findings["cuda"].state == ("ok" if torch.cuda.is_available() else "missing")
    assert all(finding.detail and "\n" not in finding.detail for finding in findings.values())
    assert findings["python"].state == findings["packages"].state == "ok"


def test_what_an_option_needs_is_lacking_and_not_wrong(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    findings = states(only={"mfa", "spark"})
    assert {finding.state for finding in findings.values()} == {"missing"}
    assert "Java 17" in findings["spark"].detail


def test_an_mfa_that_does_not_answer_is_wrong(monkeypatch, tmp_path):
    program = tmp_path / "mfa"
    program.write_text("#!/bin/sh\necho no kaldi >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    findings = states(only={"mfa"})["mfa"]
    assert (findings.state, findings.detail) == ("wrong", "`mfa version` ended with 3: no kaldi")
    program.write_text("#!/bin/sh\necho 3.1.0\n")
    assert states(only={"mfa"})["mfa"] == doctor.Finding("mfa", "ok", "mfa 3.1.0")


def test_a_package_of_a_version_that_is_not_asked_for_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1" if name == "click" else "99.0")
    findings = states(only={"packages"})["packages"]
    assert findings.state == "wrong"
    assert "click 0.0.1, need >=8.1" in findings.detail


def test_the_command_ends_with_1_where_something_is_wrong(monkeypatch):
    def boom():
        raise OSError("libcuda.so: cannot open\nshared object")

    monkeypatch.setattr(doctor, "CHECKS", {"python": doctor.python, "torch": boom})
    result = CliRunner().invoke(wordweave.cli, ["doctor"])
    assert result.exit_code == 1
    assert "wrong   torch          OSError: libcuda.so: cannot open shared object" in result.output
    assert result.output.splitlines()[-1] == "wordweave: doctor: 1 wrong: torch"


def test_json_names_every_finding(monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"python": doctor.python, "disk": doctor.CHECKS["disk"]})
    result = CliRunner().invoke(wordweave.cli, ["doctor", "--json"])
    answer = json.loads(result.output.splitlines()[-1])
    assert [finding["name"] for finding in answer["findings"]] == ["python", "disk"]


def test_a_folder_without_a_build_is_wrong(tmp_path):
    findings = {finding.name: finding for finding in doctor.examine(tmp_path, {})}
    assert findings["build"].state == "wrong"
    assert "no build here" in findings["build"].detail


@pytest.mark.parametrize(
    ("result", "version"), [('openjdk version "17.0.15" 2025', 17), ('java version "1.8.0_4"', 1)]
)
def test_java_versions_are_read(monkeypatch, tmp_path, result, version):
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{result}' >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java()[1] == version
