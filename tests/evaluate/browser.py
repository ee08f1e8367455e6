"""A headless Chromium, driven through its DevTools protocol over a pipe: no package is needed, only the browser."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--no-first-run",
)


class Page:
    """One page. What it complains of is in `complaints`."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._left, self._number = write, read, b"", 0
        self.complaints: list[str] = []
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path, width: int, height: int = 900, *, media: str = "screen", scheme: str = "light") -> None:
        """Show a file in a window of so many CSS pixels."""
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._ask("Emulation.setEmulatedMedia", media=media, features=features)
        self._ask("Page.navigate", url=path.resolve().as_uri())
        self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression, as plain data."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key, such as Enter (13), Tab (9) or Escape (27)."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self._ask("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of the first element that fits."""
        place = f"document.querySelector({json.dumps(selector)})"
        self.ask(f"{place}.scrollIntoView({{block: 'center'}})")
        box = self.ask(f"(({place}.getBoundingClientRect()).toJSON())")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", type=kind, **at)

    def picture(self, file: Path) -> None:
        """Write what is seen, for a person to look at."""
        file.write_bytes(b64decode(self._ask("Page.captureScreenshot")["data"]))

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda message: message.get("id") == number)
        assert "error" not in answer, answer
        return answer["result"]

    def _until(self, is_it: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        while True:
            while b"\0" not in self._left:
                self._left += (got := os.read(self._read, 1 << 16))
                assert got, "the browser has ended"
            text, _, self._left = self._left.partition(b"\0")
            message = json.loads(text)
            self._note(message)
            if is_it(message):
                return message

    def _note(self, message: Mapping[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(parameters["args"]))
        elif method == "Network.requestWillBeSent" and parameters["request"]["url"].startswith("http"):
            self.complaints.append(f"asks for {parameters['request']['url']}")


@contextmanager
def browser(home: Path) -> Iterator[Page]:
    """A page of a browser that keeps its files in `home`."""
    assert BROWSER is not None
    (to_browser, write), (read, from_browser) = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser, from_browser)]

    def wire() -> None:
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    command = [BROWSER, *FLAGS, f"--user-data-dir={home}", "about:blank"]
    process = subprocess.Popen(command, pass_fds=(3, 4), preexec_fn=wire, stderr=subprocess.DEVNULL)
    for end in (to_browser, from_browser, *ends):
        os.close(end)
    try:
        yield Page(write, read)
    finally:
        process.kill()
        process.wait()
        os.close(write)
        os.close(read)
