# SPDX-License-Identifier: Apache-2.0
"""What MkDocs calls to build the site: the order of the pages, generated pages, and Markdown as it reads it.

Pages that are not in `SECTIONS` come into the last section, so that a new page needs no line here.
"""

from __future__ import annotations

import argparse
import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

SECTIONS: dict[str, list[str]] = {
    "Start": ["index.md", "start.md", "commands.md", "status.md", "glossary.md", "tutorials/*.md"],
    "The machine": ["architecture.md", "vector.md", "reference.md", "isa/*.md", "primitives.md", "area.md"],
    "Use the Verilog": ["integration.md", "programming.md", "flows.md", "board.md"],
    "Models and the scheduler": ["scheduling.md", "families.md", "layers.md", "serving.md", "timeline.md"],
    "Verification": ["verification.md", "proofs.md", "mutations.md"],
    "Work on it": ["codebase.md", "comparison.md", "results.md"],
    "API": ["api/commands.md", "api/*.md"],
    "Decisions": ["decisions/index.md", "decisions/*.md"],
}
"""The sections of the site with their pages, as patterns below ``docs``; what does not exist is left out."""

API: dict[str, list[str]] = {
    "hdl": ["hdl.config", "hdl.config_file", "hdl.generate", "hdl.machine", "hdl.interfaces", "hdl.regs",
            "hdl.capabilities", "hdl.errors"],
    "hdl.isa": ["hdl.isa.*"],
    "hdl.numerics": ["hdl.numerics.*"],
    "hdl.emit": ["hdl.emit.*"],
    "scheduler": ["scheduler.system"],
    "scheduler.schedule": ["scheduler.schedule.*"],
    "scheduler.models": ["scheduler.models.*", "scheduler.models.families.table"],
    "scheduler.ops": ["scheduler.ops.*"],
    "scheduler.plan": ["scheduler.plan.*"],
    "scheduler.memory": ["scheduler.memory.*"],
    "scheduler.stream": ["scheduler.stream.step_program", "scheduler.stream.program", "scheduler.stream.choose",
                         "scheduler.stream.lower", "scheduler.stream.synchronise", "scheduler.stream.prove"],
    "scheduler.cost": ["scheduler.cost.model", "scheduler.cost.links", "scheduler.cost.memory_timing",
                       "scheduler.cost.hbm.timing", "scheduler.cost.energy.table", "scheduler.cost.energy.energy"],
    "scheduler.serving": ["scheduler.serving.*"],
    "sim.golden": ["sim.golden.*"],
    "sim.machine": ["sim.machine.*"],
    "sim.simulator": ["sim.simulator.*"],
    "sim.board": ["sim.board.*"],
    "sim.view": ["sim.view.*"],
}  # fmt: skip
"""The pages of what docstrings say: each with its modules, a star for all of a package."""


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and set the order of all."""
    pages = {"index.md": (ROOT / "README.md").read_text(encoding="utf-8"), "api/commands.md": _commands()}
    pages |= {f"api/{name}.md": _api(name, modules) for name, modules in API.items()}
    pages["decisions/index.md"] = _decisions()
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    known = [file.src_uri for file in files.documentation_pages()]
    config.nav = _navigation(known)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Return a page's text as Python-Markdown wants it, with links that stay on the site."""
    home = page.file.src_uri == "index.md"
    folder = ROOT if home else (DOCS / page.file.src_uri).parent

    def link(match: re.Match[str]) -> str:
        text, target = match[1], match[2]
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, mark, anchor = target.partition("#")
        place = (folder / path).resolve()
        if not place.is_relative_to(DOCS):
            return text  # what lies outside is named, not linked
        name = place.relative_to(DOCS).as_posix()
        if place.is_dir():
            name = "decisions/index.md" if name == "decisions" else _first_page(name)
        if not name:
            return text
        return f"[{text}]({posixpath.relpath(name, posixpath.dirname(page.file.src_uri))}{mark}{anchor})"

    lines, inside = [], False
    for line in markdown.splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside:
            line = _plain_line(re.sub(r"(?<!!)\[((?:[^\]`]|`[^`]*`)*)\]\(([^)\s]+)\)", link, line), lines)
            line = line.replace("](docs/", "](") if home else line
        lines.append(line)
    return "\n".join(lines)


def _first_page(folder: str) -> str:
    """Return the page that a link to a folder of pages leads to: its own, or the first one; nothing if it has none."""
    pages = sorted(path.name for path in (DOCS / folder).glob("*.md"))
    page = next((name for name in ("index.md", "README.md", *pages) if name in pages), None)
    return f"{folder}/{page}" if page else ""


def _plain_line(line: str, before: list[str]) -> str:
    """Return a line with lists as Python-Markdown wants them: four columns a level, after an empty line."""
    indent = len(line) - len(line.lstrip())
    item = re.match(r"\s*([-*]|\d+\.) ", line)
    last = before[-1] if before else ""
    if item and not indent and last.strip() and not last.startswith((" ", "- ", "* ")) and not last[:1].isdigit():
        before.append("")
    if line.startswith("|") and last.strip() and not last.startswith("|"):
        before.append("")
    return " " * indent + line if indent and not line.startswith("    ") else line


def _navigation(known: list[str]) -> list[dict[str, Any]]:
    """Return MkDocs' ``nav`` of these pages."""
    left, sections = sorted(known), []
    for title, patterns in [*SECTIONS.items(), ("More", ["**"])]:
        found = []
        for pattern in patterns:
            expression = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
            found += [name for name in left if re.fullmatch(expression, name)]
            left = [name for name in left if name not in found]
        if found:
            sections.append({title: found})
    return sections


def _decisions() -> str:
    """Return the page that lists the decisions."""
    lines = ["# Decisions", "", "Each page says what was decided, why, and what else was tried.", ""]
    for path in sorted((DOCS / "decisions").glob("0*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


def _api(name: str, patterns: list[str]) -> str:
    """Return the page of a package, which mkdocstrings fills with what its modules' docstrings say."""
    lines = [f"# `{name}`", ""]
    package = ROOT / name.replace(".", "/") / "__init__.py"
    if said := ast.get_docstring(ast.parse(package.read_text(encoding="utf-8"))):
        lines += [re.sub(r":\w+:(`[^`]*`)", r"\1", said), ""]
    for pattern in patterns:
        modules = sorted((ROOT / pattern.removesuffix(".*").replace(".", "/")).glob("[a-z]*.py"))
        names = [f"{name}.{path.stem}" for path in modules] if pattern.endswith(".*") else [pattern]
        lines += [line for module in names for line in (f"## `{module}`", "", f"::: {module}", "")]
    return "\n".join(lines)


def _commands() -> str:
    """Return the page of what every command's ``--help`` says."""
    from sim.cli import make_parser

    lines = ["# Commands and their options", "", "What `a3d COMMAND --help` prints.", ""]

    def add(parser: argparse.ArgumentParser, level: int) -> None:
        lines.extend([f"{'#' * level} `{parser.prog}`", "", "```text", parser.format_help().rstrip(), "```", ""])
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner in action.choices.values():
                    add(inner, min(level + 1, 3))

    parser = make_parser()
    parser.prog = "a3d"
    add(parser, 2)
    return "\n".join(lines) + "\n"
