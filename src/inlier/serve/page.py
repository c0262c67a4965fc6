"""The page for people: what was judged just now, what was judged before, and what another rule would have said."""

import json
import math
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from nicegui import ui
from starlette.concurrency import run_in_threadpool

from inlier.calibration import smallest_alpha
from inlier.errors import InlierError
from inlier.serve import views
from inlier.serve.config import Role
from inlier.serve.dialogs import show_calibration, show_region, show_statistics
from inlier.serve.plant import Plant
from inlier.serve.security import COOKIE, LOCAL, Person, may, person_with
from inlier.serve.station import Station
from inlier.serve.statistics import rejudged
from inlier.serve.store import Filter, Row
from inlier.serve.texts import LANGUAGES, say

HERE = Path(__file__).parent
TILES = 24  # of the history, a page
GOOD = 3  # parts to compare with
LOOK = 0.3  # seconds after which a page shows what is new
HIGHEST = 0.5  # false-alarm rate of the slider
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "defect": {"verdict": "defect"},
    "good": {"verdict": "good"},
    "unlabelled": {"label": "none"},
    "error": {"verdict": "error"},
}


def add_page(app: FastAPI, plant: Plant) -> None:
    """Pages at /, /wall and /login."""
    newest: dict[str, int] = {name: plant.store.last(name) for name in plant.stations}

    def note(rows: list[Row]) -> None:
        newest.update({row["station"]: row["id"] for row in rows})

    plant.listeners.append(note)

    @ui.page("/", title="inlier")
    async def station(request: Request, station: str = "") -> None:
        if not plant.stations:  # none of a changed station.toml could be started; the log says why
            Wall(plant, newest, request).build()
            return
        await Screen(plant, newest, station, request).build()

    @ui.page("/wall", title="inlier")
    def wall(request: Request) -> None:
        Wall(plant, newest, request).build()

    @app.get("/login", include_in_schema=False)
    def ask(request: Request, wrong: bool = False) -> Response:
        return HTMLResponse(views.login(_language(plant, request), wrong))

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        async with request.form(max_files=0, max_fields=2) as form:
            token = str(form.get("token", ""))
        if person_with(token.encode(), plant.config.tokens) is None:
            return RedirectResponse("/login?wrong=true", 303)
        answer = RedirectResponse("/", 303)
        secure = plant.config.server.certificate is not None
        answer.set_cookie(COOKIE, token, max_age=30 * 86400, httponly=True, samesite="strict", secure=secure)
        return answer

    ui.run_with(app, title="inlier", show_welcome_message=False)


def _language(plant: Plant, request: Request) -> str:
    chosen = request.cookies.get("inlier_language", "")
    return chosen if chosen in LANGUAGES else plant.config.server.language


class Frame:
    """What all pages share: style, language, theme, and who looks at it."""

    def __init__(self, plant: Plant, newest: dict[str, int], request: Request):
        self.plant, self.newest, self.store = plant, newest, plant.store
        self.language = _language(plant, request)
        self.person: Person = request.scope.get("person") or LOCAL
        self.dark = ui.dark_mode(request.cookies.get("inlier_theme", "light") == "dark")
        ui.colors(primary="#0b6aa8")
        ui.add_css(HERE / "page.css")
        ui.add_head_html(f"<script>{(HERE / 'page.js').read_text()}</script>")
        ui.html('<div class="toast" role="alert"></div>', sanitize=False)

    def say(self, key: str, **values: object) -> str:
        return say(self.language, key, **values)

    def may(self, role: Role) -> bool:
        return may(self.person, role)

    def button(self, text: str, icon: str | None, do: Any) -> ui.button:
        """In the page's own ink."""
        return ui.button(text, icon=icon, on_click=do, color=None).props("flat no-caps")

    def end_of_bar(self) -> None:
        for code, name in LANGUAGES.items():
            if code != self.language:
                self.button(name, None, lambda code=code: self._speak(code)).props("dense")
        turn = self.button("", "contrast", self._turn).props(f'dense round aria-label="{self.say("dark")}"')
        turn.tooltip(self.say("dark"))

    def _speak(self, code: str) -> None:
        ui.run_javascript(f"remember('inlier_language', '{code}'); location.reload()")

    def _turn(self) -> None:
        self.dark.value = not self.dark.value
        ui.run_javascript(f"remember('inlier_theme', '{'dark' if self.dark.value else 'light'}')")


class Wall(Frame):
    """All stations side by side."""

    def build(self) -> None:
        with ui.element("header").classes("bar"):
            ui.link("inlier", "/").classes("brand")
            ui.label(self.say("wall"))
            ui.element("div").classes("space")
            self.end_of_bar()
        self.panels: dict[str, Any] = {}
        self.shown: dict[str, Any] = {}
        with ui.element("main").classes("wall"):
            for name in self.plant.stations:
                self.panels[name] = ui.html("", sanitize=False)
        ui.timer(LOOK, self._look)

    async def _look(self) -> None:
        for name, panel in self.panels.items():
            station = self.plant.stations.get(name)
            state = self.newest.get(name, 0), station.problem if station else ""
            if station is None or self.shown.get(name) == state:
                continue
            rows = await run_in_threadpool(self.store.page, Filter(name), limit=1)
            self.shown[name] = state
            panel.set_content(str(views.panel(name, rows[0] if rows else None, station.problem, self.language)))


class Screen(Frame):
    """One station: the part, the verdict, what to say about it, and the history."""

    def __init__(self, plant: Plant, newest: dict[str, int], name: str, request: Request):
        super().__init__(plant, newest, request)
        name = name if name in plant.stations else next(iter(plant.stations))
        self.station: Station = plant.stations[name]
        self.row: Row | None = None
        self.rows: list[Row] = []
        self.live, self.shown = True, -1
        self.filter, self.heat, self.outlines = "all", 0.6, True
        self.rule: tuple[str, float, float] | None = None  # of the slider; None: the station's own
        self.slid = 0  # how often the slider was moved or put back

    # -- building ------------------------------------------------------------------------------------------------------

    async def build(self) -> None:
        # with the page itself: a picture may be dropped before the page has its connection
        told = {"station": self.station.name, "gone": self.say("not_kept")}
        ui.add_body_html(f"<script>Object.assign(document.body.dataset, {json.dumps(told)})</script>")
        self._bar()
        with ui.element("main").classes("stage"):
            with ui.element("section").classes("left"):
                with ui.element("div").classes("seen"):
                    self.picture = ui.html("", sanitize=False)
                    self._controls()
                    self.compare = ui.html("", sanitize=False)
                self._history()
            with ui.element("section").classes("side"):
                self.verdict = ui.html("", sanitize=False).classes("first")
                self.trouble = ui.html("", sanitize=False).classes("first")
                with ui.element("div").classes("card"):
                    self.facts = ui.html("", sanitize=False)
                if self.may("operator"):
                    self._ask()
                self._slider()
        ui.keyboard(self._key, ignore=["input", "textarea", "select"])
        await self._look()
        ui.timer(LOOK, self._look)

    def _bar(self) -> None:
        with ui.element("header").classes("bar"):
            ui.link("inlier", "/").classes("brand")
            for name in self.plant.stations:
                button = self.button(name, None, lambda name=name: ui.navigate.to(f"/?station={name}"))
                button.classes("on" if name == self.station.name else "")
            ui.element("div").classes("space")
            if self.may("operator"):
                choose = self.button(self.say("upload"), "add_photo_alternate", None)
                choose.on("click", js_handler="() => choose()")
            self.button(self.say("statistics"), "insights", self._statistics)
            if self.may("engineer"):
                self.button(self.say("region"), "select_all", self._region)
                self.button(self.say("calibration"), "tune", self._calibration)
            self.button(self.say("wall"), "grid_view", lambda: ui.navigate.to("/wall"))
            self.end_of_bar()

    def _controls(self) -> None:
        with ui.element("div").classes("controls"):
            ui.label(self.say("heat"))
            slider = ui.slider(min=0, max=1, step=0.05, value=self.heat, on_change=self._set_heat)
            slider.props(f'aria-label="{self.say("heat")}"')
            self.switch = ui.switch(self.say("outlines"), value=True, on_change=self._set_outlines).props("dense")
            self.is_live = self.button(self.say("live"), "sensors", self._go_live).props("dense")
            self.held = ui.label("")

    def _ask(self) -> None:
        with ui.element("div").classes("card asks"):
            ui.html(f"<h3>{self.say('was')}</h3>", sanitize=False)
            with ui.element("div").classes("ask"):
                for label in ("good", "defect"):
                    button = ui.button(on_click=lambda label=label: self._label(label), color=None)
                    with button.props("no-caps unelevated").classes(label):
                        words = f"{self.say(f'label_{label}')}&nbsp; <kbd>{label[0].upper()}</kbd>"
                        ui.html(words, tag="span", sanitize=False)

    def _slider(self) -> None:
        rule = self.station.model.rule
        if rule is None:
            return
        scores = min(pool.n_groups for pool in self.station.model.inspector.calibration_.pools())
        lowest = smallest_alpha(scores, self.station.model.confidence)
        with ui.element("div").classes("card"):
            with ui.row().classes("items-center justify-between w-full no-wrap"):
                ui.html(f"<h3>{self.say('false_alarms')}</h3>", sanitize=False)
                self.rate = ui.label(f"{100 * rule.alpha:.3g} %").classes("text-bold")
            self.slider = ui.slider(
                min=math.log10(lowest), max=math.log10(HIGHEST), step=0.01, value=math.log10(rule.alpha)
            ).props(f'aria-label="{self.say("false_alarms")}"')
            self.slider.on("update:model-value", self._slide, throttle=0.15)
            self.told = ui.label("").classes("told")
            self.promise = ui.label(self._promised(rule)).classes("quiet")
            ui.label(self.say("lowest", scores=scores, lowest=f"{100 * lowest:.3g} %")).classes("quiet")
            self.back = self.button(self.say("back"), "undo", self._own_rule).props("dense")
            self.back.set_visibility(False)

    def _history(self) -> None:
        with ui.element("section").classes("history"):
            with ui.element("div").classes("top"):
                ui.html(f"<h3>{self.say('history')}</h3>", sanitize=False)
                options = {name: self.say(f"filter_{name}") for name in FILTERS}
                ui.toggle(options, value="all", on_change=self._choose_filter).props("no-caps dense unelevated")
                ui.element("div").classes("space")
                ui.label(self.say("keys_list")).classes("quiet")
            self.strip = ui.html("", sanitize=False).classes("strip")
            self.strip.on(
                "click",
                lambda e: self._show_number(int(e.args)),
                js_handler="(e) => { const tile = e.target.closest('[data-id]'); if (tile) emit(tile.dataset.id); }",
            )

    # -- showing -------------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """What is new since the last look."""
        self.trouble.set_content(self._trouble())
        number = self.newest.get(self.station.name, 0)
        if number == self.shown:
            return
        self.shown = number
        await self._read()
        if self.live and self.rows:
            self.row = self.rows[0]
        self._draw()
        await self._compare()

    async def _read(self) -> None:
        chosen = Filter(self.station.name, **FILTERS[self.filter])
        self.rows = await run_in_threadpool(self.store.page, chosen, limit=TILES)

    def _draw(self) -> None:
        row = self.row
        self.picture.set_content(str(views.picture(row, self.language, self.heat, self.outlines)))
        self.verdict.set_content(str(views.verdict(row, self.language, self.rule)))
        self.facts.set_content(str(views.facts(row, self.language)))
        self.strip.set_content(str(views.strip(self.rows, self.language, self.rule, row["id"] if row else None)))
        self.is_live.set_enabled(not self.live)
        newer = row is not None and row["id"] < self.newest.get(self.station.name, 0)
        self.held.set_text(self.say("held") if not self.live and newer else "")
        ui.run_javascript("place()")

    async def _compare(self) -> None:
        """Good parts beside it, and the part repainted."""
        if self.row is None:
            return
        number = self.row["id"]
        labelled = Filter(self.station.name, label="good", kept=True)
        rows = await run_in_threadpool(self.store.page, labelled, limit=GOOD + 1)
        if len(rows) <= GOOD:  # those that look most like good parts
            judged = Filter(self.station.name, verdict="good", kept=True)
            found = await run_in_threadpool(self.store.page, judged, limit=TILES)
            rows += sorted((row for row in found if row["label"] is None), key=lambda row: -row["p_value"])
        good = [row for row in rows if row["id"] != number][:GOOD]
        images = "".join(f'<img alt="" src="/v1/records/{row["id"]}/small.jpg">' for row in good)
        shown = f"<section><h3>{self.say('good_examples')}</h3><div>{images}</div></section>" if images else ""
        if self.station.model.inspector.repaints and self.row["error"] is None:
            source = f"/v1/records/{self.row['id']}/reconstruction.png"
            image = f'<img alt="" src="{source}" onerror="this.remove()">'
            shown += f"<section><h3>{self.say('repainted')}</h3><div>{image}</div></section>"
        self.compare.set_content(f'<div class="compare">{shown}</div>')

    def _trouble(self) -> str:
        reason = self.station.refusal() or self.station.problem
        waiting = [
            self.say("sink_waits", count=told["waiting"], sink=sink)
            for sink, told in self.plant.sinks_of(self.station.name).items()
            if told["problem"] and told["waiting"]
        ]
        stream = self.station.drift.stream
        changed = [self.say("changed", alarm=stream.alarm)] if stream and stream.alarm else []
        return str(views.trouble([*([reason] if reason else []), *waiting, *changed], self.language))

    # -- what people do ------------------------------------------------------------------------------------------------

    async def _label(self, label: Any) -> None:
        if self.row is None or not self.may("operator"):
            return
        number = self.row["id"]
        try:
            await run_in_threadpool(self.store.label, number, label, self.person.name)
        except InlierError as error:
            ui.notify(str(error), type="negative")
            return
        self.row = await run_in_threadpool(self.store.record, number)
        await self._read()
        self._draw()

    async def _show_number(self, number: int) -> None:
        self.row = await run_in_threadpool(self.store.record, number)
        self.live = number == self.newest.get(self.station.name)
        self._draw()
        await self._compare()

    async def _step(self, older: bool) -> None:
        """Along the history, as it is filtered, beyond what the strip shows, too."""
        if self.row is None:
            return
        chosen = Filter(self.station.name, **FILTERS[self.filter])
        place = {"before": self.row["id"]} if older else {"after": self.row["id"]}
        rows = await run_in_threadpool(lambda: self.store.page(chosen, limit=1, **place))
        if rows:
            await self._show_number(rows[0]["id"])

    async def _go_live(self) -> None:
        self.live, self.shown = True, -1
        await self._look()

    async def _choose_filter(self, event: Any) -> None:
        self.filter = event.value
        await self._read()
        self._draw()

    def _set_heat(self, event: Any) -> None:
        before, self.heat = self.heat, float(event.value)
        if before > 0 and self.heat > 0:
            ui.run_javascript(f"document.querySelectorAll('.heat').forEach((e) => e.style.opacity = {self.heat})")
        else:
            self._draw()

    def _set_outlines(self, event: Any) -> None:
        self.outlines = bool(event.value)
        self._draw()

    async def _slide(self, event: Any) -> None:
        alpha, self.slid = 10 ** float(event.args), self.slid + 1
        mine = self.slid
        try:
            told = await run_in_threadpool(rejudged, self.station, alpha)
        except InlierError:  # rounded to below what can be promised
            return
        if mine != self.slid:  # it was moved on, or put back, while this was counted
            return
        rule = self.station.model.rule_at(alpha)
        assert rule is not None
        self.rule = self.station.model.sha256, alpha, told["threshold"]
        counts = {key: told[key] for key in ("records", "to_defect", "to_good")}
        self.rate.set_text(f"{100 * alpha:.3g} %")
        self.told.set_text(self.say("changes", count=told["to_defect"] + told["to_good"], **counts))
        self.promise.set_text(self._promised(rule))
        self.back.set_visibility(True)
        self._draw()

    def _own_rule(self) -> None:
        self.rule, rule, self.slid = None, self.station.model.rule, self.slid + 1
        assert rule is not None
        self.slider.set_value(math.log10(rule.alpha))
        self.rate.set_text(f"{100 * rule.alpha:.3g} %")
        self.told.set_text("")
        self.promise.set_text(self._promised(rule))
        self.back.set_visibility(False)
        self._draw()

    def _promised(self, rule: Any) -> str:
        average, confident = (f"{100 * value:.3g} %" for value in (rule.average, rule.confident))
        return self.say("promise", average=average, confident=confident)

    async def _statistics(self) -> None:
        await show_statistics(self.plant, self.station, self.language)

    async def _region(self) -> None:
        await show_region(self.plant, self.station, self.row, self.language, self.person.name)

    async def _calibration(self) -> None:
        await show_calibration(self.plant, self.station, self.language, self.person.name)

    async def _key(self, event: Any) -> None:
        if not event.action.keydown or event.modifiers.ctrl or event.modifiers.meta or event.modifiers.alt:
            return
        key = str(event.key)
        if key in ("g", "d"):
            if not event.action.repeat:
                await self._label("good" if key == "g" else "defect")
        elif key in ("ArrowLeft", "ArrowRight"):
            await self._step(older=key == "ArrowLeft")
        elif key == "Escape":
            await self._go_live()
        elif key == "h":
            self.heat = 0.0 if self.heat else 0.6
            self._draw()
        elif key == "o":
            self.switch.set_value(not self.switch.value)
        elif key == "s":
            await self._statistics()
        elif key.isdigit() and 0 < int(key) <= len(self.plant.stations):
            ui.navigate.to(f"/?station={list(self.plant.stations)[int(key) - 1]}")
