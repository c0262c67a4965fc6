"""Pieces of the page as HTML: pure functions of records."""

from typing import Any

from markupsafe import Markup

from inlier.serve.store import Row, plain_time
from inlier.serve.texts import say

# shape, word and colour: any one of them alone tells the verdict
SHAPES = {
    "good": '<circle cx="50" cy="50" r="44"/><path class="sign" d="M28 52 L44 68 L73 34"/>',
    "defect": '<path d="M32 6 H68 L94 32 V68 L68 94 H32 L6 68 V32 Z"/>'
    '<path class="sign" d="M33 33 L67 67 M67 33 L33 67"/>',
    "error": '<path d="M50 8 L95 90 H5 Z"/><path class="sign" d="M50 38 V62 M50 74 V76"/>',
    "none": '<rect x="10" y="10" width="80" height="80" rx="10"/><path class="sign" d="M30 50 H70"/>',
}


def verdict_of(row: Row) -> str:
    return "error" if row["error"] is not None else row["verdict"] or "none"


def at_alpha(row: Row, rule: tuple[str, float, float] | None) -> str:
    """The verdict that another rule gives to stored numbers. rule: (model, alpha, threshold); None: as it was."""
    if rule is None or row["verdict"] is None:
        return verdict_of(row)
    model, alpha, threshold = rule
    is_defect = row["score"] > threshold if row["model"] == model else row["p_value"] <= alpha
    return "defect" if is_defect else "good"


def icon(verdict: str) -> Markup:
    return Markup('<svg class="icon" viewBox="0 0 100 100" aria-hidden="true">{}</svg>').format(Markup(SHAPES[verdict]))


def verdict(row: Row | None, language: str, rule: tuple[str, float, float] | None = None) -> Markup:
    """Big: for somebody who stands three metres away."""
    if row is None:
        words = Markup("<b>{}</b><span>{}</span>").format(say(language, "waiting"), say(language, "waiting_how"))
        return Markup('<div class="verdict idle" role="status">{}</div>').format(words)
    found, was = at_alpha(row, rule), verdict_of(row)
    was_told = Markup('<span class="was">{} → {}</span>').format(say(language, was), say(language, found))
    attributes = Markup('class="verdict {}{}" role="status" data-record="{}" data-verdict="{}"').format(
        found, " changed" if found != was else "", row["id"], found
    )
    content = icon(found) + Markup("<b>{}</b>").format(say(language, found)) + (was_told if found != was else "")
    return Markup("<div {}>{}</div>").format(attributes, content)


def picture(row: Row | None, language: str, heat: float, outlines: bool) -> Markup:
    if row is None:
        return Markup('<div class="view empty">{}</div>').format(icon("none"))
    if row["error"] is not None:
        return Markup('<div class="view empty error">{}<p>{}</p></div>').format(icon("error"), row["error"])
    layers = Markup('<img class="pic" alt="" src="/v1/records/{}/shown.jpg" onerror="gone(this)">').format(row["id"])
    if row["score"] is not None and heat > 0:
        layers += Markup(
            '<img class="heat" alt="" src="/v1/records/{}/heat.png" style="opacity:{}" onerror="this.remove()">'
        ).format(row["id"], heat)
    size = row["settings"].get("size")
    if outlines and size and row["regions"]:
        layers += lines(row["regions"], size)
    shape = Markup("--w:{};--h:{}").format(*size) if size else Markup("--w:1;--h:1")
    label = f"{say(language, 'record')} {row['id']}"
    return Markup('<div class="view" style="{}" role="img" aria-label="{}"><div class="layers">{}</div></div>').format(
        shape, label, layers
    )


def lines(regions: list[dict[str, Any]], size: list[int]) -> Markup:
    shapes = Markup()
    for region in regions:
        points = " ".join(f"{x},{y}" for x, y in region["polygon"])
        shapes += Markup('<polygon class="rim" points="{0}"/><polygon class="line" points="{0}"/>').format(points)
    return Markup('<svg class="lines" viewBox="0 0 {} {}" preserveAspectRatio="none">{}</svg>').format(*size, shapes)


def facts(row: Row | None, language: str) -> Markup:
    if row is None:
        return Markup()
    values = [
        ("record", str(row["id"])),
        ("time", plain_time(row["time"])),
        ("part", row["part"]),
        ("lot", row["lot"]),
        ("score", _number(row["score"])),
        ("threshold", _number(row["threshold"])),
        ("p_value", _number(row["p_value"])),
        ("regions", str(len(row["regions"])) if row["score"] is not None else None),
        ("latency", f"{row['latency']:.0f} ms"),
        ("labelled", row["label"] and say(language, f"label_{row['label']}")),
    ]
    found = Markup().join(
        Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(say(language, key), value) for key, value in values if value
    )
    return Markup('<dl class="facts">{}</dl>').format(found)


def strip(rows: list[Row], language: str, rule: tuple[str, float, float] | None, chosen: int | None) -> Markup:
    """The history: newest first."""
    if not rows:
        return Markup('<p class="quiet">{}</p>').format(say(language, "nothing"))
    return Markup().join(_tile(row, language, rule, row["id"] == chosen) for row in rows)


def _tile(row: Row, language: str, rule: tuple[str, float, float] | None, is_chosen: bool) -> Markup:
    found = at_alpha(row, rule)
    image = Markup('<img alt="" loading="lazy" src="/v1/records/{}/small.jpg">').format(row["id"])
    image = image if row["kept"] is not None else Markup('<i class="gone">{}</i>').format(say(language, "not_kept"))
    label = Markup()
    if row["label"]:
        about = row["label"], say(language, "labelled"), say(language, f"label_{row['label']}")
        label = Markup('<em class="{}" title="{}">{}</em>').format(*about)
    return Markup(
        '<button class="tile {}{}{}" data-id="{}" aria-label="{} {}, {}">{}{}{}<small>{} · {}</small></button>'
    ).format(
        found,
        " chosen" if is_chosen else "",
        " changed" if found != verdict_of(row) else "",
        row["id"],
        say(language, "record"),
        row["id"],
        say(language, found),
        image,
        icon(found),
        label,
        row["id"],
        plain_time(row["time"])[11:],
    )


def panel(name: str, row: Row | None, problem: str, language: str) -> Markup:
    """One station of several, side by side."""
    found = trouble([problem] if problem else [], language)
    about = Markup("{} · {}").format(row["part"] or row["id"], plain_time(row["time"])[11:]) if row else ""
    return Markup('<a class="panel" href="/?station={}"><h2>{}</h2>{}{}<p class="quiet">{}</p>{}</a>').format(
        name, name, verdict(row, language), picture(row, language, 0.0, True), about, found
    )


def trouble(reasons: list[str], language: str) -> Markup:
    one = Markup('<p class="trouble" role="alert">{}: {}</p>')
    return Markup().join(one.format(say(language, "problem"), reason) for reason in reasons)


def share(told: dict[str, Any]) -> str:
    """
    >>> share({"share": 0.0, "low": 0.0, "high": 0.071, "count": 0, "of": 50})
    '0.0 % (0.0–7.1 %; 0 of 50)'
    """
    if told["share"] is None:
        return "–"
    low, high = 100 * told["low"], 100 * told["high"]
    return f"{100 * told['share']:.1f} % ({low:.1f}–{high:.1f} %; {told['count']} of {told['of']})"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def rows_of(values: list[tuple[str, str]]) -> Markup:
    found = Markup().join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*pair) for pair in values)
    return Markup('<dl class="facts wide">{}</dl>').format(found)


def login(language: str, wrong: bool) -> str:
    """Needs nothing that a stranger may not have."""
    told = Markup('<p class="wrong" role="alert">{}</p>').format(say(language, "wrong_token")) if wrong else ""
    return Markup(
        '<!DOCTYPE html><html lang="{}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>inlier</title><style>body{{font:18px/1.5 system-ui,sans-serif;display:grid;place-items:center;"
        "min-height:90vh;background:#12161b;color:#e6eaef}}form{{display:grid;gap:12px;width:min(340px,90vw)}}"
        "input,button{{font:inherit;padding:10px;border-radius:8px;border:1px solid #5a6675}}"
        ".wrong{{color:#ff9e7c;margin:0}}</style>"
        '<form method="post" action="/login"><h1>inlier</h1>{}<label for="token">{}</label>'
        '<input id="token" name="token" type="password" autocomplete="current-password" autofocus>'
        "<button>{}</button></form></html>"
    ).format(language, told, say(language, "token"), say(language, "log_in"))
