"""Hooks of mkdocs: what the site tells of the code comes from the code, when it is built.

`<!-- settings NAME -->`, `<!-- commands -->`, `<!-- api -->` and `<!-- weights -->` on a page stand for tables. Files
that lie outside of docs/ (`benchmarks/*.md` and a few more) become pages, and links to them links to those.
"""

import dataclasses
import posixpath
import re
import typing
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = {
    f"benchmarks/{path.name}": f"evidence/{path.name}" for path in sorted((ROOT / "benchmarks").glob("*.md"))
} | {
    name: f"project/{name}" for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
}  # path in the repository -> page


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Files of benchmarks/ that the nav does not name follow those that it does."""
    evidence = next(section["Evidence"] for section in config.nav or [] if "Evidence" in section)
    named = {page for entry in evidence for page in entry.values()}
    evidence += sorted(page for page in OUTSIDE.values() if page.startswith("evidence/") and page not in named)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    here = page.file.src_uri
    source = next((path for path, made in OUTSIDE.items() if made == here), f"docs/{here}")

    def link(found: re.Match[str]) -> str:
        """A link of the file as one of the page; a file that is no page is named."""
        words, target, anchor = found.groups(default="")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path not in OUTSIDE and not path.startswith("docs/"):
            return f"{words} (`{path}`)"
        there = OUTSIDE.get(path) or path.removeprefix("docs/")
        return f"[{words}]({posixpath.relpath(there, posixpath.dirname(here) or '.')}{anchor})"

    markdown = re.sub(r"(?<!!)\[([^\]]+)\]\(([\w./-]+\.\w+)(#[\w-]+)?\)", link, markdown)
    made = r"<!-- (settings|commands|api|weights) ?(\w+)? -->"
    return re.sub(made, lambda m: MADE[m[1]](*filter(None, [m[2]])), markdown)


def settings(name: str) -> str:
    """Every number of a method, in all presets: what `inlier methods NAME` prints."""
    from inlier import methods
    from inlier.settings import _bounds, _describe

    presets = methods.get(name).presets
    kind = type(next(iter(presets.values())))
    hints = typing.get_type_hints(kind)
    rows = []
    for f in dataclasses.fields(kind):
        known = f.metadata
        allowed = ", ".join(known["choices"]) or " ".join(
            (_describe(hints[f.name]), _bounds(known["low"], known["high"]))
        )
        values = [_code(getattr(preset, f.name)) for preset in presets.values()]
        rows.append([f"`{f.name}`", *values, known["meaning"], allowed])
    return table(["setting", *(f"`{preset}`" for preset in presets), "meaning", "allowed"], rows)


def weights() -> str:
    """Where backbones come from, and under which licence."""
    from inlier.features.weights import ORIGINS

    rows = [[f"`{name}`", o.package or o.hub or o.public_file, o.licence] for name, o in ORIGINS.items()]
    return table(["backbone", "from", "weights, licence"], rows)


def commands() -> str:
    """What `inlier COMMAND --help` prints, for all of them."""
    import typer

    from inlier.cli.main import app

    found = typer.main.get_command(app)
    return "\n\n".join(_command(found.commands[name], f"inlier {name}") for name in found.commands)


def _command(command: Any, path: str, level: int = 2) -> str:
    context = command.make_context(path, [], resilient_parsing=True)
    context.info_name = path
    usage = " ".join([path, *(piece for piece in command.collect_usage_pieces(context))])
    parts = [f"{'#' * level} {path}", command.help or "", f"```text\n{usage}\n```"]
    parts += [_command(child, f"{path} {name}", level + 1) for name, child in getattr(command, "commands", {}).items()]
    records = (parameter.get_help_record(context) for parameter in command.params)
    rows = [[f"`{record[0]}`", record[1]] for record in records if record and record[0] != "--help"]
    return "\n\n".join([*parts, table(["option", "meaning"], rows)] if rows else parts)


def api() -> str:
    """The station's OpenAPI description as tables."""
    from inlier.serve.app import make_app

    described = make_app(MagicMock(stations={})).openapi()
    parts = []
    for path, verbs in described["paths"].items():
        for verb, call in verbs.items():
            parts += [f"## {verb.upper()} {path}", call.get("description", "")]
            rows = [
                [f"`{p['name']}`", p["in"], "yes" if p.get("required") else "", _schema(p["schema"])]
                for p in call.get("parameters", [])
            ]
            rows += [
                ["", f"body, {kind}", "", _schema(content["schema"])]
                for kind, content in call.get("requestBody", {}).get("content", {}).items()
            ]
            parts += [table(["parameter", "in", "required", "type"], rows)] if rows else []
            parts.append(f"Answers: {', '.join(call['responses'])}.")
    for name, schema in described["components"]["schemas"].items():
        if name not in ("HTTPValidationError", "ValidationError"):
            rows = [
                [f"`{key}`", "yes" if key in schema.get("required", []) else "", _schema(value)]
                for key, value in schema["properties"].items()
            ]
            parts += [f"## {name}", schema.get("description", ""), table(["field", "required", "type"], rows)]
    return "\n\n".join(part for part in parts if part)


def _schema(schema: dict[str, Any]) -> str:
    """A type in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf"):
        return " or ".join(_schema(option) for option in options)
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        return f"list of {_schema(schema['items'])}"
    if "properties" in schema:
        return ", ".join(f"`{name}`: {_schema(value)}" for name, value in schema["properties"].items())
    limits = [f"{word} {schema[key]}" for key, word in LIMITS.items() if key in schema]
    return " ".join([schema.get("type", "anything"), *([schema["format"]] if "format" in schema else []), *limits])


LIMITS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
MADE = {"settings": settings, "commands": commands, "api": api, "weights": weights}


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [
        heads,
        ["---"] * len(heads),
        *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"`{part}`" for part in value)
    return f"`{str(value).lower() if value is None or isinstance(value, bool) else value}`"
