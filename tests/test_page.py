"""The page in a real browser, as an operator uses it."""

import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import ImageEnhance

from conftest import part
from inlier.serve import page as page_
from inlier.serve.app import make_app
from inlier.serve.config import checked
from inlier.serve.page import add_page
from inlier.serve.store import Filter, Store
from inlier.serve.texts import LANGUAGES, TEXTS
from station_server import Server
from test_station import TOKENS, WITH_TOKENS, open_plant, pictures, png

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


def test_every_language_has_every_text_with_the_same_gaps():
    for key, texts in TEXTS.items():
        assert set(texts) == set(LANGUAGES), key
        gaps = {language: sorted(re.findall(r"{(\w+)}", text)) for language, text in texts.items()}
        assert len({tuple(found) for found in gaps.values()}) == 1, key


def test_every_text_is_said_somewhere():
    code = "".join(file.read_text() for file in Path(page_.__file__).parent.glob("*.py") if file.name != "texts.py")
    made = {f"filter_{name}" for name in page_.FILTERS} | {"label_good", "label_defect"}
    assert [key for key in TEXTS.keys() - made if f'"{key}"' not in code and f"'{key}'" not in code] == []


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("needs Debian's chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(plate_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    config = folder / "station.toml"
    config.write_text("".join(f'[[stations]]\nname = "{name}"\nmodel = "{plate_model}"\n' for name in ("press", "saw")))
    running = Server(folder, "--config", config)
    for raw in pictures(good=20, defects=6):
        running.inspect(raw)
    yield running
    running.close()


@pytest.fixture
def page(browser, server):
    """A page of the station `press`; any error that the browser tells fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened, told = context.new_page(), []
    opened.on("console", lambda m: told.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: told.append(str(error)))
    opened.set_default_timeout(15_000)
    opened.goto(server.url)
    opened.wait_for_selector(".verdict[data-record]")
    opened.told = told
    yield opened
    context.close()
    assert told == []


def shown(page):
    verdict = page.locator(".side .verdict")
    return int(verdict.get_attribute("data-record")), verdict.get_attribute("data-verdict")


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)


def store_of(server):
    return Store(server.data / "records.sqlite")


def test_the_verdict_of_a_new_part_appears_by_itself_with_icon_word_and_picture(page, server):
    number, _ = shown(page)
    good, defect = pictures()[0], pictures()[-1]
    server.inspect(defect)
    until(lambda: shown(page) == (number + 1, "defect"))
    assert page.locator(".side .verdict b").inner_text() == "DEFECT"
    assert page.locator(".side .verdict svg").count() == 1
    assert page.locator(".lines .line").count() >= 1
    server.inspect(good)
    until(lambda: shown(page)[0] == number + 2)
    assert page.locator(".side .verdict b").inner_text() in ("GOOD", "DEFECT")
    until(lambda: page.evaluate("document.querySelector('.pic').naturalWidth") == 64)


def test_a_picture_is_chosen_and_judged(page, tmp_path):
    number, _ = shown(page)
    (tmp_path / "part 7.png").write_bytes(pictures()[-1])
    with page.expect_file_chooser() as chosen:
        page.get_by_text("Choose pictures").click()
    chosen.value.set_files(tmp_path / "part 7.png")
    until(lambda: shown(page) == (number + 1, "defect"))
    assert "part 7.png" in page.locator(".facts").first.inner_text()


def test_a_picture_is_dropped_and_one_that_is_none_says_so(page):
    number, _ = shown(page)
    page.evaluate(
        """() => { const data = new DataTransfer(); data.items.add(new File(['no picture'], 'x.png'));
        dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); }"""
    )
    until(lambda: shown(page) == (number + 1, "error"))
    until(lambda: "no picture" in page.locator(".toast").inner_text())
    page.told.clear()  # the browser tells that the answer was 422


def test_one_key_labels_the_part_that_is_shown_and_arrows_walk(page, server):
    store, (number, _) = store_of(server), shown(page)
    page.keyboard.press("d")
    until(lambda: store.record(number)["label"] == "defect")
    page.keyboard.press("g")
    until(lambda: store.record(number)["label"] == "good")
    page.keyboard.press("ArrowLeft")
    until(lambda: shown(page)[0] == number - 1)
    page.keyboard.press("d")
    until(lambda: store.record(number - 1)["label"] == "defect")
    server.inspect(pictures()[0])  # what is looked at stays
    page.get_by_text("Held: a newer part is there").wait_for()
    assert shown(page)[0] == number - 1
    page.keyboard.press("Escape")
    until(lambda: shown(page)[0] == number + 1)
    assert [a["who"] for a in store.actions(number)] == ["local", "local"]
    store.close()


def test_the_history_is_filtered_and_clicked(page, server):
    store = store_of(server)
    page.get_by_role("button", name="Defects", exact=True).click()
    until(lambda: page.locator(".tile").count() == page.locator(".tile.defect").count())
    wanted = [row["id"] for row in store.page(Filter("press", verdict="defect"), limit=24)]
    assert [int(tile.get_attribute("data-id")) for tile in page.locator(".tile").all()] == wanted
    page.locator(".tile").nth(1).click()
    until(lambda: shown(page) == (wanted[1], "defect"))
    store.close()


def test_the_slider_judges_anew_what_is_shown_and_says_what_it_promises(page, server):
    before = page.locator(".tile.good").count()

    def one_step_more_changes_some():  # as a person would: further where nothing happened
        page.locator(".side .q-slider__track-container").press("PageUp")
        page.wait_for_timeout(500)
        return page.locator(".tile.changed").count() > 0

    until(one_step_more_changes_some)
    page.get_by_text("verdicts would change").wait_for()
    assert page.locator(".tile.good").count() < before
    assert "with 95 % confidence at most" in page.locator(".side").inner_text()
    store = store_of(server)
    until(lambda: re.search(r"(\d+) of (\d+) verdicts", page.locator(".told").inner_text()))
    assert int(re.search(r"of (\d+)", page.locator(".told").inner_text())[1]) == sum(
        n for (verdict, _), n in store.counts(Filter("press")).items() if verdict in ("good", "defect")
    )
    page.get_by_text("Back to the station's rate").click()
    until(lambda: page.locator(".tile.changed").count() == 0)
    store.close()


def test_a_region_of_interest_is_drawn_and_its_effect_is_told(page, server):
    store = store_of(server)
    for row in store.page(Filter("press", verdict="good"), limit=25):
        store.label(row["id"], "good", "Ada")
    store.close()
    page.get_by_text("Region of interest").click()
    image = page.locator(".region img")
    image.wait_for()
    time.sleep(0.5)
    box = image.bounding_box()
    for x, y in ((0.05, 0.05), (0.3, 0.05), (0.3, 0.3), (0.05, 0.3)):
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        time.sleep(0.2)
    until(lambda: page.locator(".region svg circle").count() == 4)
    page.get_by_text("See the effect").click()
    page.get_by_text("parts labelled good: threshold").wait_for()


def test_the_wheel_zooms_and_a_double_click_goes_back(page):
    layers, box = page.locator(".stage .layers"), page.locator(".stage .view").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -400)
    until(lambda: "scale(2.7" in (layers.get_attribute("style") or ""))
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    until(lambda: "scale" not in (layers.get_attribute("style") or ""))


def test_statistics_have_figures_and_intervals(page):
    page.keyboard.press("s")
    sheet = page.locator(".sheet")
    sheet.get_by_text("Share of defects").wait_for()
    assert sheet.locator(".charts svg").count() == 2
    assert "95 %" in sheet.inner_text() and " of " in sheet.inner_text()


def test_a_change_of_all_parts_is_said_on_the_page(page, server):
    page.goto(f"{server.url}/?station=saw")
    banner = page.locator(".trouble")
    assert banner.count() == 0
    rng = np.random.default_rng(5)
    for _ in range(40):
        server.inspect(png(ImageEnhance.Brightness(part(rng)[0]).enhance(1.3)), "saw")
    banner.wait_for()
    assert "no longer look like the calibration" in banner.inner_text() and "calibrate again" in banner.inner_text()


def test_the_page_speaks_german_and_turns_dark_and_remembers_both(page):
    page.get_by_role("button", name="Deutsch").click()
    page.get_by_text("Was war dieses Teil wirklich?").wait_for()
    page.get_by_label("Dunkel oder hell").click()
    until(lambda: "body--dark" in page.locator("body").get_attribute("class"))
    page.reload()
    page.get_by_text("Was war dieses Teil wirklich?").wait_for()
    until(lambda: "body--dark" in page.locator("body").get_attribute("class"))


@pytest.mark.parametrize(
    "width, height, path", [(820, 1180, "/"), (820, 1180, "/wall"), (3840, 2160, "/"), (3840, 2160, "/wall")]
)
def test_nothing_is_cut_off_on_tablets_and_walls(page, server, width, height, path):
    page.set_viewport_size({"width": width, "height": height})
    page.goto(server.url + path)
    page.wait_for_selector(".verdict[data-record] b")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.verdict b')).fontSize)")
    assert size >= (110 if width == 3840 else 36)  # letters of 3 % of a wall's width are read at three metres
    assert page.locator(".verdict b").first.is_visible()


@pytest.fixture(scope="module")
def asked(plate_model, tmp_path_factory):
    """(asks for pages as a browser does, the plant): a station with tokens, in this process."""
    plant = open_plant(tmp_path_factory.mktemp("asked"), plate_model, tokens=WITH_TOKENS)
    app = make_app(plant)
    add_page(app, plant)
    with TestClient(app, base_url="http://localhost", headers={"Accept": "text/html"}) as client:
        yield client, plant


def test_a_person_logs_in_with_a_token_and_sees_what_the_role_may(asked):
    client, seen = asked[0], {}
    assert "Your token" in client.get("/").text  # led to /login
    assert "Nobody has this token" in client.post("/login", data={"token": "wrong"}).text
    for role, token in TOKENS.items():
        answer = client.post("/login", data={"token": token}, follow_redirects=False)
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        seen[role] = client.get("/").text
        client.cookies.clear()
    for words, roles in (
        ("What was this part really?", {"operator", "engineer"}),
        ("Region of interest", {"engineer"}),
    ):
        assert {role for role, text in seen.items() if words in text} == roles, words


def test_a_page_is_there_where_no_station_of_a_changed_file_could_be_started(asked):
    client, plant = asked
    gone = {"name": "saw", "model": "gone.inlier"}
    server = {"data": str(plant.folder)}
    plant.apply(checked({"server": server, "tokens": WITH_TOKENS, "stations": [gone]}, "station.toml"))
    answer = client.get("/", headers={"Authorization": f"Bearer {TOKENS['viewer']}"})
    assert not plant.stations and answer.status_code == 200 and "All stations" in answer.text
