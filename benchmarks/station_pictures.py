"""Makes the pictures of docs/images: two stations judge solar cells (ELPV, CC BY-NC-SA 4.0), as an operator sees them.

    python benchmarks/station_pictures.py        needs 'inlier[demo,serve]', playwright and Debian's chromium

PaDiM watches a folder of mono-, SimpleNet one of polycrystalline cells. What the browser reports as an error ends it.
"""

import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inlier import methods, open_dataset
from inlier.data.images import encoded

IMAGES = Path(__file__).parent.parent / "docs" / "images"
STATIONS = {"mono": "padim", "poly": "simplenet"}
PORT = 8123
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


def config(folder: Path) -> Path:
    """Trains the models and writes station.toml."""
    lines = [f"[server]\nport = {PORT}\ndata = {str(folder / 'data')!r}\n"]
    for name, method in STATIONS.items():
        (folder / name).mkdir()
        methods.create(method).fit("elpv", categories=[name]).save(folder / f"{name}.inlier")
        lines.append(
            f"[[stations]]\nname = {name!r}\nmodel = {str(folder / f'{name}.inlier')!r}\nalpha = 0.02\n"
            f"source = {{folder = {str(folder / name)!r}}}\nkeep = {{pictures = 'all'}}\n"
        )
    path = folder / "station.toml"
    path.write_text("\n".join(lines))
    return path


def cells(name: str, good: int, defects: int) -> list[Any]:
    """Test pictures, the defects last; the last of all is clearly one."""
    test = open_dataset("elpv", [name]).test
    chosen = [s for s in test if not s.is_defect][:good]
    return [s.source for s in chosen + [s for s in test if s.is_defect][-defects:]]


@contextmanager
def serving(path: Path) -> Any:
    process = subprocess.Popen([sys.executable, "-m", "inlier", "serve", "--config", str(path)])
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/v1/ready", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def operate(folder: Path, browser: Any) -> list[str]:
    """What an operator does in some minutes; the errors that the browser reports."""
    told: list[str] = []
    page = browser.new_context(viewport={"width": 1280, "height": 860}).new_page()
    page.on("console", lambda m: told.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(f"http://127.0.0.1:{PORT}")
    for name in STATIONS:
        for number, source in enumerate(cells(name, 16, 8)):
            (folder / name / f"{number:02}.png").write_bytes(encoded(source))
            time.sleep(0.4)
    for name in STATIONS:
        page.goto(f"http://127.0.0.1:{PORT}/?station={name}")
        page.locator(f".strip [data-id] >> nth={7}").wait_for()
        for key in ("ArrowLeft", "d", "ArrowLeft", "d", "Escape"):
            page.keyboard.press(key)
            page.wait_for_timeout(500)
        page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / "station.png")  # SimpleNet's
    page.goto(f"http://127.0.0.1:{PORT}/?station=mono")
    page.get_by_role("button", name="Deutsch").click()
    page.get_by_label("Dunkel oder hell").click()
    page.wait_for_timeout(1500)
    slider = page.get_by_label("Fehlalarm").locator(".q-slider__track-container").first
    box = slider.bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / "station_what_if.png")
    return told


def main() -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as place, sync_playwright() as play:
        path = config(Path(place))
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        with serving(path):
            told = operate(Path(place), browser)
        browser.close()
    if told:
        sys.exit("the browser reported: " + "; ".join(told))


if __name__ == "__main__":
    main()
