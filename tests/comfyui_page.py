"""ComfyUI's page in headless Chromium, for tests: opening a workflow, running it, dropping a file on the canvas.

Needs playwright (pip install playwright; no browser of its own) and Chromium: `chromium` on the search path, or what
CHROMIUM names.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
VIEW = {"width": 1900, "height": 1050}
"""Pixels of the window."""

RUN_BUTTON = 'button[data-testid="queue-button"], .comfyui-queue-button .p-splitbutton-button'
"""Of newer pages, and of that of 2025."""

START_TIME, SETTLING_TIME, RUN_TIME = 120, 1.5, 900
"""Seconds: for the page to start, for a graph to be drawn and complained about, for a run to end."""

READY = "window.app && app.graph && app.extensionManager && document.querySelector('canvas#graph-canvas')"

VIDEOS_READY = "[...document.querySelectorAll('video')].every(video => video.readyState >= 2)"

DESCRIBED = """() => {
  const saved = app.graph.serialize()
  const nodes = saved.nodes.map(n => [String(n.id), {type: n.type, title: n.title || null, mode: n.mode,
    place: [...n.pos].map(Math.round), colour: n.color || null, widgets: (n.widgets_values ?? []).map(v => v ?? "")}])
  const links = saved.links.map(l => [String(l[1]), l[2], String(l[3]), l[4], l[5]].join(' ')).sort()
  const groups = saved.groups.map(g => g.title).sort()
  return {nodes: Object.fromEntries(nodes), links, groups}
}"""
"""What the page holds, in a form that does not change with its version."""

COMPLAINTS = """() => {
  const shown = document.querySelectorAll(
    '.p-toast-message, .p-dialog, .comfy-missing-nodes, .comfy-modal, [data-testid="error-overlay"]')
  const texts = [...shown].filter(e => e.offsetParent !== null).map(e => e.innerText.trim()).filter(Boolean)
  const red = app.graph.nodes.filter(n => n.has_errors).map(n => 'marked as wrong: ' + n.type)
  return [...texts, ...red]
}"""

SHOWN_WHOLE = """([left, top, width, height]) => {
  const boxes = [...app.graph.nodes, ...app.graph.groups].map(n => [n.pos[0], n.pos[1] - 40,
    n.pos[0] + n.size[0], n.pos[1] + n.size[1]])
  const [first, highest] = [0, 1].map(k => Math.min(...boxes.map(b => b[k])))
  const [last, lowest] = [2, 3].map(k => Math.max(...boxes.map(b => b[k])))
  const view = app.canvas.ds
  view.scale = Math.min(width / (last - first), height / (lowest - highest))
  view.offset[0] = left / view.scale - first
  view.offset[1] = top / view.scale - highest
  app.canvas.min_font_size_for_lod = 0
  app.extensionManager.setting.set('Comfy.Minimap.Visible', false)
  app.canvas.draw(true, true)
}"""
GRAPH_PLACE = [100, 60, 1680, 900]
"""Pixels of the window: left, top, width and height of what a photograph shows the graph in."""

DROPPED = """async ([address, name, type]) => {
  const bytes = await (await fetch(address)).arrayBuffer()
  const data = new DataTransfer()
  data.items.add(new File([bytes], name, {type}))
  const at = {bubbles: true, cancelable: true, clientX: 800, clientY: 600, dataTransfer: data}
  document.querySelector('canvas#graph-canvas').dispatchEvent(new DragEvent('dragover', at))
  document.querySelector('canvas#graph-canvas').dispatchEvent(new DragEvent('drop', at))
}"""


def chromium_path() -> str:
    """Chromium's program; skips without."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("Chromium is not installed; CHROMIUM may name it")
    return path


class ComfyUIPage:
    """One window with a server's page."""

    def __init__(self, page: Any, url: str) -> None:
        self._page, self._url = page, url
        self._said: list[str] = []
        page.on("pageerror", lambda error: self._said.append(f"error: {error}"))
        page.on("dialog", self._closed)
        page.goto(url, timeout=START_TIME * 1000)
        page.wait_for_function(READY, timeout=START_TIME * 1000)
        self._settle()
        self.dismiss()

    def _closed(self, dialog: Any) -> None:
        self._said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _settle(self, seconds: float = SETTLING_TIME) -> None:
        self._page.wait_for_timeout(1000 * seconds)

    def open(self, workflow: dict[str, Any], name: str) -> list[str]:
        """Open a workflow as Workflow > Open does, and return everything the page complains about."""
        self._said.clear()
        self._page.evaluate("([w, n]) => app.loadGraphData(w, true, true, n)", [workflow, name])
        self._settle()
        return self.complaints()

    @property
    def version(self) -> tuple[int, ...]:
        """The page's version, such as (1, 27, 10)."""
        text = self._page.evaluate("window.__COMFYUI_FRONTEND_VERSION__")
        return tuple(int(number) for number in text.split(".")[:3])

    def dismiss(self) -> None:
        """Close the dialogs that are open; the first visit opens the template browser."""
        for _ in range(3):
            self._page.keyboard.press("Escape")
            self._settle(0.3)

    def clear(self) -> None:
        """Take every node off the canvas."""
        self._page.evaluate("() => app.graph.clear()")

    def complaints(self) -> list[str]:
        """Toasts, dialogs, errors of the page, and nodes drawn as wrong, since a workflow was opened."""
        return [*self._said, *self._page.evaluate(COMPLAINTS)]

    def described(self) -> dict[str, Any]:
        """Nodes with their widgets, links and groups on the canvas."""
        return self._page.evaluate(DESCRIBED)

    def prompt(self) -> dict[str, Any]:
        """The graph that Run would send, in API form."""
        return self._page.evaluate("async () => (await app.graphToPrompt()).output")

    def run(self) -> dict[str, Any]:
        """Press Run and return the new history entry when it has ended."""
        known = set(self._history())
        self._page.click(RUN_BUTTON)
        deadline = time.monotonic() + RUN_TIME
        while time.monotonic() < deadline:
            new = {key: entry for key, entry in self._history().items() if key not in known}
            if new:
                self._settle()
                return next(iter(new.values()))
            self._settle(0.5)
        pytest.fail(f"the run did not end within {RUN_TIME} s; the page says {self.complaints()}")

    def _history(self) -> dict[str, Any]:
        return self._page.evaluate("async () => (await fetch('/history')).json()")

    def drop(self, address: str, name: str, content_type: str) -> None:
        """Drop what the server gives at `address` on the canvas, as a file."""
        self._page.evaluate(DROPPED, [address, name, content_type])
        self._settle(2 * SETTLING_TIME)

    def photograph(self, path: Path) -> None:
        """Save a JPEG of the window with the whole graph and its videos' first frames in it."""
        self._page.wait_for_function(VIDEOS_READY, timeout=START_TIME * 1000)
        self._page.evaluate(SHOWN_WHOLE, GRAPH_PLACE)
        self._settle()
        self._page.screenshot(path=str(path), type="jpeg", quality=60)


@contextmanager
def comfyui_page(url: str, folder: Path) -> Iterator[ComfyUIPage]:
    """Give a window with the page of a running server. folder: for the browser's own files."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(folder), executable_path=chromium_path(), headless=True, args=list(ARGUMENTS), viewport=VIEW
        )
        try:
            yield ComfyUIPage(context.new_page(), url)
        finally:
            context.close()
