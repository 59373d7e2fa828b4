"""A headless Chromium driven through chromedriver's WebDriver protocol, with nothing but the standard library."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, CHROMEDRIVER = "chromium", "chromedriver"
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-device-scale-factor=1",
    "--autoplay-policy=no-user-gesture-required", "--no-first-run", "--disable-extensions",
)  # fmt: skip
ENTER, SPACE, TAB = "\ue007", " ", "\ue004"


class Browser:
    """One window of a headless Chromium."""

    def __init__(self, session: str):
        self.session = session

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """A request of the WebDriver protocol; its value."""
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.session}{path}", content, method=method)
        with urllib.request.urlopen(request, timeout=240) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self.call("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a function returns in the page; it may await."""
        wrapped = (
            "const done = arguments[arguments.length - 1];"
            f"(async (...args) => {{ {script} }})(...arguments).then(done, error => done('error: ' + error))"
        )
        return self.call("POST", "/execute/async", {"script": wrapped, "args": list(arguments)})

    def wait(self, condition: str, seconds: float = 180.0) -> None:
        """Until an expression in the page is true."""
        end = time.monotonic() + seconds
        while self.run(f"return Boolean({condition})") is not True:
            if time.monotonic() > end:
                raise AssertionError(f"after {seconds} s still not: {condition}")
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def click(self, x: float, y: float) -> None:
        """A click of the mouse at a place of the window."""
        pointer = [
            {"type": "pointerMove", "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": pointer}
        self.call("POST", "/actions", {"actions": [mouse]})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def problems(self) -> list[str]:
        """What the page wrote to the console since the last call, warnings and errors."""
        return [line["message"] for line in self.call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


@contextmanager
def open_browser(*arguments: str) -> Iterator[Browser]:
    """A browser; the test is skipped where Chromium or chromedriver is missing."""
    for name in (CHROMIUM, CHROMEDRIVER):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed (Debian: apt-get install chromium chromium-driver)")
    with subprocess.Popen(
        [CHROMEDRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        try:
            assert driver.stdout
            port = next(
                found[1]
                for line in driver.stdout
                if (found := re.search(r"started successfully on port (\d+)", line))
            )
            options = {"args": [*ARGUMENTS, *arguments], "binary": shutil.which(CHROMIUM)}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "WARNING"}}
            root = Browser(f"http://127.0.0.1:{port}")
            session = root.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            browser = Browser(f"{root.session}/session/{session}")
            browser.call("POST", "/timeouts", {"script": 180_000})
            try:
                yield browser
            finally:
                browser.call("DELETE", "")
        finally:
            driver.terminate()
