# SPDX-License-Identifier: Apache-2.0
"""Build the byte corpus of the demo model from public-domain texts in Debian 12 packages.

The four texts (King James Bible, Jane Austen's six novels, the Jargon File, The Devil's Dictionary) give the
experts different registers of English to specialise in. Each package is pinned by version and SHA-256, so the
corpus is the same bytes everywhere. From every text one contiguous slice is held out and never trained on.

Run on Debian 12 amd64 (needs ``apt-get``, ``dpkg-deb`` and ``libreadline8``)::

    python tools/prepare_data.py            # writes build/demo_data/{train.txt,heldout.txt,manifest.json}
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import hashlib
import json
import re
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

KIB = 1024


class DataError(Exception):
    """A problem with a package or its contents; the message says what to do about it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """One pinned Debian package.

    Parameters
    ----------
    name, version, arch : str
        What ``apt-get download`` is asked for, and the name of the file that it leaves.
    sha256 : str
        Checksum of the ``.deb`` file (lower-case hexadecimal).
    """

    name: str
    version: str
    arch: str
    sha256: str

    @property
    def filename(self) -> str:
        """File name of the package, the epoch's colon escaped as apt does it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.arch}.deb"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One text of the corpus.

    Parameters
    ----------
    name, title : str
        Short name (used in the manifest) and what the text is.
    licence : str
        Status of the text itself (not of the programs packed with it).
    packages : tuple of Package
        The package with the text first, then what is needed to read it.
    extract : callable
        From the folders that the packages were unpacked to, to the text.
    heldout_at : float
        Where the held-out slice starts, as a fraction of the text, in [0, 1).
    heldout_bytes, sample_bytes : int
        Length of the held-out slice, and of its beginning that goes into the committed sample.
    """

    name: str
    title: str
    licence: str
    packages: tuple[Package, ...]
    extract: Callable[[list[Path]], str]
    heldout_at: float
    heldout_bytes: int
    sample_bytes: int


# Typographic characters and their plain spelling; the corpus is ASCII so that every byte has seen training.
_FOLD = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": "--",
        "\u2026": "...",
        "\u00b7": ".",
        "\u00d7": "x",
        "\u2022": "*",
        "\u00a0": " ",
        "\u2192": "->",
        "\u2190": "<-",
        "\u00e6": "ae",
        "\u00c6": "AE",
        "\u0153": "oe",
        "\u0152": "OE",
        "\u2260": "!=",
        "\u2261": "==",
    }
)


def fold_to_ascii(text: str) -> str:
    """Spell `text` in ASCII: typographic quotes and dashes plainly, accents dropped, the rest removed."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_FOLD))
    return decomposed.encode("ascii", "ignore").decode("ascii")


def reflow(text: str, *, indent: int) -> str:
    """Join the hard-wrapped lines of each prose paragraph into one line.

    Parameters
    ----------
    text : str
        Paragraphs separated by blank lines.
    indent : int
        Indentation of prose. Blocks with any line indented otherwise (verse, tables, code) keep their lines and
        lose only the prose indentation.
    """
    blocks: list[str] = []
    for block in re.split(r"\n[ \t]*\n", text):
        lines = [line.rstrip() for line in block.split("\n") if line.strip()]
        if not lines:
            continue
        if all(len(line) - len(line.lstrip(" ")) == indent for line in lines):
            blocks.append(" ".join(line.strip() for line in lines))
        else:
            blocks.append("\n".join(line[indent:] if line[:indent].isspace() else line for line in lines))
    return "\n\n".join(blocks) + "\n\n"


def extract_kjv(folders: list[Path]) -> str:
    """King James Bible: the ``bible`` program prints it; one verse per line, chapters headed by book and number."""
    text_folder, program_folder = folders
    command = [str(program_folder / "usr/bin/bible"), "-p", str(text_folder / "usr/lib") + "/", "Gen1:1-Rev22:21"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(
            f"cannot run the bible program of package bible-kjv: {error}; install libreadline8 on Debian 12 amd64"
        ) from error
    verses: list[str] = []
    for line in done.stdout.split("\n"):
        if re.match(r"  \d+ ", line):
            verses.append(line.strip())
        elif re.match(r"[1-3A-Z][A-Za-z ]* \d+$", line) and (not verses or verses[-1][-1:] in ("", *".:;?!,)")):
            verses += ["", line.strip()]
        elif line.strip() and verses:
            verses[-1] += " " + line.strip()
    return "\n".join(verses).lstrip("\n") + "\n\n"


def _r_strings(blob: bytes) -> list[str]:
    """Read one R character vector (serialisation format 2 or 3, XDR), as ``saveRDS`` writes it."""
    if blob[:2] != b"X\n":
        raise DataError("package r-cran-janeaustenr: a data object is not in R's XDR format; use the pinned version")
    at = 14
    if int.from_bytes(blob[2:6], "big") >= 3:  # version 3 names the native encoding
        at += 4 + int.from_bytes(blob[14:18], "big")
    if blob[at + 3] != 16:  # STRSXP
        raise DataError("package r-cran-janeaustenr: a data object is not a character vector; use the pinned version")
    count = int.from_bytes(blob[at + 4 : at + 8], "big")
    at += 8
    strings: list[str] = []
    for _ in range(count):
        length = int.from_bytes(blob[at + 4 : at + 8], "big")
        strings.append(blob[at + 8 : at + 8 + length].decode("utf-8"))
        at += 8 + length
    return strings


def extract_austen(folders: list[Path]) -> str:
    """Jane Austen's novels: zlib-compressed R vectors of lines, one after the other in R's lazy-load file."""
    data = (folders[0] / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    novels: list[str] = []
    while data:
        size = int.from_bytes(data[:4], "big")
        inflater = zlib.decompressobj()
        blob = inflater.decompress(data[4:])
        if len(blob) != size:
            raise DataError(f"package r-cran-janeaustenr: an object of {len(blob)} bytes should have {size}")
        data = inflater.unused_data
        novels.append(reflow("\n".join(_r_strings(blob)), indent=0))
    return "".join(novels)


def _dictd(path: Path) -> str:
    """Text of a dictd database (dictzip is gzip with an index in its header)."""
    return gzip.decompress(path.read_bytes()).decode("utf-8")


def extract_jargon(folders: list[Path]) -> str:
    """The Jargon File without the database's own header."""
    text = _dictd(folders[0] / "usr/share/dictd/jargon.dict.dz")
    start = text.index("\n(TM)")
    return reflow(text[start:], indent=4)


def extract_devil(folders: list[Path]) -> str:
    """The Devil's Dictionary without the transcriber's header."""
    text = _dictd(folders[0] / "usr/share/dictd/devil.dict.dz")
    start = text.index("\nABASEMENT")
    return reflow(text[start:], indent=0)


SOURCES: tuple[Source, ...] = (
    Source(
        name="kjv",
        title="The Bible, King James Version (1611)",
        licence="public domain: copyright expired (package copyright file)",
        packages=(
            Package(
                name="bible-kjv-text",
                version="4.38",
                arch="all",
                sha256="d61b6aad4c51ba9e2800b825325fa6a09e99a0d02a9bb6dc4724fcc4995a1b7a",
            ),
            Package(
                name="bible-kjv",
                version="4.38",
                arch="amd64",
                sha256="75a49c032a6efa9faa2beb4a9acb70974380122906329d0e100de36cc88ff02d",
            ),
        ),
        extract=extract_kjv,
        heldout_at=0.6634,
        heldout_bytes=112 * KIB,
        sample_bytes=36 * KIB,
    ),
    Source(
        name="austen",
        title="Jane Austen: Emma, Mansfield Park, Northanger Abbey, Persuasion, Pride and Prejudice, "
        "Sense and Sensibility (1811-1817)",
        licence="public domain: copyright expired; the package around the text is MIT",
        packages=(
            Package(
                name="r-cran-janeaustenr",
                version="1.0.0-1",
                arch="all",
                sha256="df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
            ),
        ),
        extract=extract_austen,
        heldout_at=0.60,
        heldout_bytes=112 * KIB,
        sample_bytes=36 * KIB,
    ),
    Source(
        name="jargon",
        title="The Jargon File 4.4.7 (2003)",
        licence="public domain (package copyright file)",
        packages=(
            Package(
                name="dict-jargon",
                version="4.4.7-3.1",
                arch="all",
                sha256="405f8168d7994ed2cb71407bb95493daec2e9aa66fc0461dafa74a9d6728a8c1",
            ),
        ),
        extract=extract_jargon,
        heldout_at=0.50,
        heldout_bytes=40 * KIB,
        sample_bytes=16 * KIB,
    ),
    Source(
        name="devil",
        title="Ambrose Bierce: The Devil's Dictionary (1911)",
        licence="public domain: copyright expired (package copyright file)",
        packages=(
            Package(
                name="dict-devil",
                version="1.0-13.1",
                arch="all",
                sha256="6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154",
            ),
        ),
        extract=extract_devil,
        heldout_at=0.50,
        heldout_bytes=16 * KIB,
        sample_bytes=8 * KIB,
    ),
)


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def fetch(package: Package, debs: Path) -> Path:
    """Return the checked ``.deb`` of `package`, downloading it into `debs` with apt when it is not there.

    Raises
    ------
    DataError
        When apt cannot get the pinned version, or the file's checksum differs.
    """
    path = debs / package.filename
    if not path.exists():
        debs.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["apt-get", "download", f"{package.name}={package.version}"], cwd=debs, capture_output=True, text=True
        )
        if done.returncode != 0 or not path.exists():
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise DataError(
                f"package {package.name}: apt-get cannot download version {package.version} ({reason}); "
                f"run apt-get update on Debian 12, or put {package.filename} into {debs}"
            )
    found = sha256(path.read_bytes())
    if found != package.sha256:
        raise DataError(
            f"package {package.name}: {path} has SHA-256 {found}, expected {package.sha256}; "
            "delete the file and run again"
        )
    return path


def unpack(package: Package, debs: Path, into: Path) -> Path:
    """Unpack `package` below `into` and return the folder."""
    folder = into / package.name
    if not folder.exists():
        into.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg-deb", "-x", str(fetch(package, debs)), str(folder)], check=True)
    return folder


def split(text: bytes, *, at: float, size: int) -> tuple[bytes, bytes]:
    """Cut a contiguous slice of exactly `size` bytes that starts at a line start near fraction `at`.

    Returns
    -------
    tuple of bytes
        What is left for training, and the slice.
    """
    start = text.index(b"\n", int(at * len(text))) + 1
    return text[:start] + text[start + size :], text[start : start + size]


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the demo model's corpus from Debian 12 packages.")
    parser.add_argument("--out", type=Path, default=Path("build/demo_data"), help="output folder")
    parser.add_argument("--debs", type=Path, default=None, help="folder with the .deb files (default: OUT/debs)")
    parser.add_argument(
        "--publish",
        type=Path,
        default=None,
        help="model directory that heldout.txt (the sample) and data_manifest.json are copied to",
    )
    args = parser.parse_args(argv)
    out: Path = args.out
    debs: Path = args.debs or out / "debs"
    out.mkdir(parents=True, exist_ok=True)
    train, heldout, sample = [], [], []
    manifest: dict[str, object] = {}
    sources: list[dict[str, object]] = []
    try:
        for source in SOURCES:
            folders = [unpack(package, debs, out / "unpacked") for package in source.packages]
            text = fold_to_ascii(source.extract(folders)).encode("ascii")
            kept, held = split(text, at=source.heldout_at, size=source.heldout_bytes)
            train.append(kept)
            heldout.append(held)
            sample.append(held[: source.sample_bytes])
            sources.append(
                {
                    "name": source.name,
                    "title": source.title,
                    "licence": source.licence,
                    "packages": [dataclasses.asdict(package) for package in source.packages],
                    "train_bytes": len(kept),
                    "heldout_bytes": len(held),
                    "sample_bytes": source.sample_bytes,
                    "train_sha256": sha256(kept),
                    "heldout_sha256": sha256(held),
                }
            )
            print(f"{source.name:8s} train {len(kept):9,d} bytes, held out {len(held):7,d} bytes")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    manifest["sources"] = sources
    for name, parts in (("train", train), ("heldout", heldout), ("sample", sample)):
        data = b"".join(parts)
        (out / f"{name}.txt").write_bytes(data)
        manifest[name] = {"bytes": len(data), "sha256": sha256(data)}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    if args.publish is not None:
        args.publish.mkdir(parents=True, exist_ok=True)
        (args.publish / "heldout.txt").write_bytes(b"".join(sample))
        (args.publish / "data_manifest.json").write_bytes((out / "manifest.json").read_bytes())
    print(f"wrote {out}/train.txt, heldout.txt, sample.txt and manifest.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
