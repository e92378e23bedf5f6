# SPDX-License-Identifier: Apache-2.0
"""Make the Verilog that Yosys writes pleasant to read, without changing what it means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hdl.emit.hierarchy import is_identifier
from hdl.emit.rtlil import Memory

__all__ = ["clean", "merge_duplicates", "split_modules"]

_MODULE = re.compile(r"^module (\S+?)\s*\((.*?)\);", re.MULTILINE | re.DOTALL)
_ESCAPED = re.compile(r"\\(\S+) ")
_WORD = re.compile(r"(?<![\\\w$])[A-Za-z_][\w$]*")
# Attributes without a meaning outside Yosys and Amaranth; those that a designer sets (ram_style, keep) stay.
_ATTRIBUTE = re.compile(r"^ *\(\* (?:init|enum_\w+|src|full_case|hdlname|generator) = .* \*\)\n", re.MULTILINE)
_DECLARATION = re.compile(r"  (input|output|wire|reg) ((?:\[\d+:0\] )?)(\w+)( = [^;]+)?;$")
_ALIAS_LINE = re.compile(r"  (?:wire (?:\[\d+:0\] )?(\w+);|assign (\w+) = )")
_ASSIGNS = re.compile(r"(?:^  assign .*;\n){2,}", re.MULTILINE)
_DIGITS = re.compile(r"(\d+)")
_TRIGGER = re.compile(r"\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+")


def split_modules(text: str) -> dict[str, str]:
    """Split what Yosys wrote into modules, without its banner."""
    modules: dict[str, str] = {}
    for chunk in re.split(r"(?<=^endmodule)\n", text, flags=re.MULTILINE):
        found = _MODULE.search(chunk)
        if found is not None:
            modules[found[1].lstrip("\\")] = chunk[found.start() :].rstrip() + "\n"
    return modules


def clean(text: str, ports: Sequence[str], memories: Iterable[Memory]) -> str:
    """Tidy the text of one module.

    Parameters
    ----------
    text : str
        The module as Yosys wrote it.
    ports : sequence of str
        Order in which the ports are to be listed; ports that are missing here follow in alphabetical order.
    memories : iterable of Memory
        Memories of the module; those that start at zero get a loop that says so.
    """
    text = _trigger_all(_unescape(_sort_assigns(_ATTRIBUTE.sub("", text))))
    text = _ansi_header(text, ports)
    text = _drop_aliases(text)
    for memory in memories:
        if memory.zero:
            text = _initialise(text, memory)
    return text


def _sort_assigns(text: str) -> str:
    """Sort neighbouring assignments, whose order in the text of Yosys depends on the modules that it read before."""

    def in_order(run: re.Match[str]) -> str:
        lines = run[0].splitlines(keepends=True)
        return "".join(sorted(lines, key=lambda line: [int(p) if p.isdigit() else p for p in _DIGITS.split(line)]))

    return _ASSIGNS.sub(in_order, text)


def _trigger_all(text: str) -> str:
    """Make every ``always @*`` run once at time zero.

    Yosys does so by reading a register that never changes, but forgets it in blocks of a single assignment: with a
    constant on the right such a block waits for ever, and the target stays unknown in event-driven simulators.
    """
    text, number = re.subn(
        r"^  always @\*\n    (\S.*;)$",
        r"  always @* begin\n    if (initial_trigger) begin end\n    \1\n  end",
        text,
        flags=re.MULTILINE,
    )
    if number and "reg initial_trigger = 0;" not in text:
        text = text.replace(");\n", ");\n  reg initial_trigger = 0;\n", 1)
    # A blocking initialisation may come before the `always @*` blocks wait for it (Icarus 11): X would remain.
    return text.replace("reg initial_trigger = 0;", "reg initial_trigger;\n  initial initial_trigger <= 0;")


def _ansi_header(text: str, ports: Sequence[str]) -> str:
    """Move the declarations of the ports into the header, in the order `ports`."""
    found = _MODULE.search(text)
    assert found is not None
    listed = [port.strip() for port in found[2].split(",") if port.strip()]
    rank = {port: index for index, port in enumerate(ports)}
    directions: dict[str, str] = {}
    declared: dict[str, str] = {}
    attributes: dict[str, list[str]] = {port: [] for port in listed}
    body: list[str] = []
    for line in text[found.end() :].split("\n"):
        match = _DECLARATION.match(line)
        if match is None or match[3] not in attributes:
            body.append(line)
            continue
        kind, width, port, init = match.groups(default="")
        while body and body[-1].startswith("  (*"):
            attributes[port].insert(0, body.pop().strip() + " ")
        if kind in ("wire", "reg"):
            declared[port] = f"{kind} {width}{port}{init}"
        else:
            directions[port] = kind
    listed.sort(key=lambda port: (rank.get(port, len(rank)), port))
    lines = [f"  {''.join(attributes[port])}{directions[port]} {declared[port]}" for port in listed]
    return text[: found.start()] + f"module {found[1]} (\n" + ",\n".join(lines) + "\n);" + "\n".join(body)


def _drop_aliases(text: str) -> str:
    """Drop the second names that Amaranth gives to what is connected to an instance, where nobody reads them."""
    instances = {found[1] for found in re.finditer(r"^  \w+ (\w+) \($", text, flags=re.MULTILINE)}
    if not instances:
        return text
    uses = Counter(_WORD.findall(text))
    aliases = {
        found[1]
        for found in re.finditer(r"^  assign (\w+) = .*;$", text, flags=re.MULTILINE)
        if uses[found[1]] == 2 and found[1].split("__")[0] in instances
    }
    kept = [
        line
        for line in text.split("\n")
        if not ((found := _ALIAS_LINE.match(line)) and (found[1] or found[2]) in aliases)
    ]
    return "\n".join(kept)


def _unescape(text: str) -> str:
    """Give the escaped identifiers (``\\$12``, ``\\data$3``) ordinary names that no other identifier has."""
    escaped = dict.fromkeys(_ESCAPED.findall(text))
    if not escaped:
        return text
    taken = set(_WORD.findall(_ESCAPED.sub("", text)))
    names: dict[str, str] = {}
    for name in escaped:
        if _TRIGGER.fullmatch(name):
            # A register that never changes; reading it makes `always @*` run once at time zero.
            candidate = "initial_trigger"
        elif re.fullmatch(r"\$\d+", name):
            candidate = f"_t{name[1:]}"
        else:
            candidate = re.sub(r"\W+", "_", name).rstrip("_")
        if is_identifier(candidate) and candidate not in taken:
            taken.add(candidate)
            names[name] = candidate
    return _ESCAPED.sub(lambda found: names.get(found[1], found[0]), text)


def _initialise(text: str, memory: Memory) -> str:
    """Add the loop that clears `memory` at time zero, as the simulation of the plain form does.

    Not for synthesis: no block needs it, memories of an ASIC have no such thing, and Yosys spends minutes on the
    widest ones.
    """
    declaration = re.compile(rf"^  reg (?:\[\d+:0\] )?{re.escape(memory.name)} \[\d+:0\];\n", re.MULTILINE)
    loop = (
        "`ifndef SYNTHESIS\n"
        f"  initial begin : {memory.name}_init\n"
        "    integer i;\n"
        f"    for (i = 0; i < {memory.depth}; i = i + 1)\n"
        f"      {memory.name}[i] = {memory.width}'h0;\n"
        "  end\n"
        "`endif\n"
    )
    text, replaced = declaration.subn(lambda found: found[0] + loop, text)
    assert replaced == 1, f"memory {memory.name} of {memory.module} was not found in the Verilog text"
    return text


def merge_duplicates(texts: Mapping[str, str], order: Sequence[str]) -> dict[str, str]:
    """Find inline modules that are equal.

    Parameters
    ----------
    texts : mapping of str to str
        Cleaned text of the inline modules of one component.
    order : sequence of str
        Their names, children before parents.

    Returns
    -------
    dict of str to str
        For each superfluous module, the module that replaces it.
    """
    replaced: dict[str, str] = {}
    first: dict[str, str] = {}
    for name in order:
        body = rename_instances(texts[name], replaced)
        body = body.replace(f"module {name} (", "module (", 1)
        kept = first.setdefault(body, name)
        if kept != name:
            replaced[name] = kept
    return replaced


def rename_instances(text: str, replaced: Mapping[str, str]) -> str:
    """Let the instances in `text` refer to the modules that replace theirs."""
    if not replaced:
        return text
    return re.sub(
        r"^  (\w+) (?=\S+ \($)", lambda found: f"  {replaced.get(found[1], found[1])} ", text, flags=re.MULTILINE
    )
