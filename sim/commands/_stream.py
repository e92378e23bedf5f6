# SPDX-License-Identifier: Apache-2.0
"""Shows generated text as it comes: plainly in a pipe, live with a progress bar on a terminal."""

import codecs
import sys
from types import TracebackType

import rich.console
import rich.live
import rich.markup
import rich.progress
import rich.table

from sim.machine.byte_model import printable, show
from sim.machine.generator import Generator, StepRecord

__all__ = ["TokenStream"]

MOST_SHOWN = 16
"""Sequences that the live view has room for."""


class TokenStream:
    """Writes the tokens of a generation to standard output as they come; a context manager.

    One sequence is written as it is: its prompt, then byte after byte. Several take turns: a line for each step, with
    the new text of every sequence. On a terminal, standard error has a progress bar, and several sequences grow side by
    side in a live view, which at the end is replaced by their texts.

    Parameters
    ----------
    generator : Generator
        What runs.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._out = sys.stdout
        self._console = rich.console.Console(stderr=True)
        self._texts = [bytearray() for _ in generator.prompts]
        self._alone = len(self._texts) == 1
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        self._cycles = 0
        self._simulated = 0.0
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"), rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(), rich.progress.TextColumn("tokens  {task.fields[note]}"),
            rich.progress.TimeElapsedColumn(), console=self._console,
        )  # fmt: skip
        self._task = self._bar.add_task("prefill", total=generator.total, note="")
        self._live: rich.live.Live | None = None

    def __enter__(self) -> "TokenStream":
        """Begin to show."""
        if self._console.is_terminal:
            self._live = rich.live.Live(
                self._view(), console=self._console, transient=True, redirect_stdout=False, refresh_per_second=8
            )
            self._live.start()
        elif self._alone:
            self._write(show(bytes(self._generator.prompts[0])))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was, with the texts on it."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            self._whole()
        elif self._alone:
            self._write(self._decoder.decode(b"", final=True) + "\n")
        else:
            self._whole()

    def add(self, record: StepRecord) -> None:
        """Show a step."""
        self._cycles += record.cycles or 0
        self._simulated += record.simulated_s
        for number, token in record.chosen.items():
            self._texts[number].append(token)
        rate = f"{self._cycles:,} cycles, {self._cycles / self._simulated:,.0f}/s" if self._simulated else ""
        self._bar.update(self._task, completed=sum(len(t) for t in self._texts), description=record.phase, note=rate)
        if self._live is not None:
            self._live.update(self._view())
        elif self._alone:
            self._write("".join(printable(self._decoder.decode(bytes([token]))) for token in record.chosen.values()))
        elif record.chosen:
            parts = (f"[{number}] {show(bytes([token]))!r}" for number, token in record.chosen.items())
            self._write(f"step {record.number}: {' '.join(parts)}\n")

    def _view(self) -> rich.console.RenderableType:
        table = rich.table.Table.grid(padding=(0, 1))
        for number, (prompt, text) in enumerate(zip(self._generator.prompts, self._texts, strict=True)):
            if number == MOST_SHOWN:
                table.add_row("...", "")
                break
            shown = rich.markup.escape(show(bytes(prompt)[-200:]))
            table.add_row(f"[bold]{number}[/bold]", f"[dim]{shown}[/dim]{rich.markup.escape(show(bytes(text)))}")
        return rich.console.Group(table, self._bar)

    def _whole(self) -> None:
        """Write every sequence's prompt and text."""
        for number, (prompt, text) in enumerate(zip(self._generator.prompts, self._texts, strict=True)):
            head = "" if self._alone else f"--- sequence {number}: prompt of {len(prompt)} tokens, {len(text)} new\n"
            self._write(f"{head}{show(bytes(prompt))}{show(bytes(text))}\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
