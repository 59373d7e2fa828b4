"""Write constraints.txt anew: the versions that pip chooses today, for each Python that the project supports.

    python .ci/lock.py python3.11 python3.12 python3.13

Nothing is installed. A package whose version depends on the Python gets a line for each version, with a marker.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def resolve(python: str) -> tuple[str, dict[str, str]]:
    """The minor version of this Python, and name -> version of what the project with all its extras would install."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        report = Path(folder, "report.json")
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", report, f"{ROOT}[{','.join(extras)}]"], check=True)
        resolved = json.loads(report.read_text())
    minor = ".".join(resolved["environment"]["python_version"].split(".")[:2])
    packages = [item["metadata"] for item in resolved["install"] if item["metadata"]["name"] != "wordweave"]
    return minor, {package["name"]: package["version"] for package in packages}


def pins(versions: dict[str, dict[str, str]]) -> list[str]:
    """Lines of constraints.txt: one for a package that all Pythons have alike, else one for each Python that has it."""
    lines = []
    for name in {name for packages in versions.values() for name in packages}:
        by_python = {python: packages[name] for python, packages in versions.items() if name in packages}
        if len(set(by_python.values())) == 1:
            lines.append(f"{name}=={next(iter(by_python.values()))}")
        else:
            lines += [
                f'{name}=={version}; python_version == "{python}"' for python, version in by_python.items()
            ]
    return sorted(lines, key=str.lower)


if __name__ == "__main__":
    lines = pins(dict(map(resolve, sys.argv[1:])))
    (ROOT / "constraints.txt").write_text("".join(f"{line}\n" for line in lines))
