"""Markdown documents of the project, as tests see them: code blocks, links, headings.

A code block's language says what tests do with it:

    sh              run, in order, by one shell for the whole document, from the checkout's root
    python, toml    written to the file that its first line names (`# var/enrol.py`), at its turn
    console         commands that are shown and not run; `<!-- not run: reason -->` stands above
    text            what a command prints, or a drawing; under `<!-- output -->` it is compared with
                    what the document's commands printed, `…` standing for anything
    json, ini       examples of data
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = frozenset({"sh", "python", "toml", "console", "text", "json", "ini"})
RUNNABLE = frozenset({"sh", "python", "toml"})

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- ((?:(?!-->).)*) -->\n\Z", re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_FILE = re.compile(r"\A# (var/[\w./-]+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; `line` is that of its fence, `comment` the HTML comment right above it."""

    language: str
    text: str
    line: int
    comment: str

    @property
    def runnable(self) -> bool:
        """Whether a test runs it, or writes it to its file."""
        return self.language == "sh" or (self.language in RUNNABLE and self.file is not None)

    @property
    def file(self) -> str | None:
        """The file that its first line names."""
        found = _FILE.match(self.text)
        return found[1] if found else None


@dataclass(frozen=True, slots=True)
class Document:
    """One Markdown file; `name` is its path below the project's root."""

    name: str
    text: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @property
    def blocks(self) -> list[Block]:
        return [
            Block(
                match[1],
                match[2],
                self.text.count("\n", 0, match.start()) + 1,
                comment[1] if (comment := _COMMENT.search(self.text, 0, match.start())) else "",
            )
            for match in _FENCE.finditer(self.text)
        ]

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """Anchors of its headings, as code forges make them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", item.lower()).replace(" ", "-") for item in headings}

    def script(self) -> str:
        """Its runnable blocks as one shell script, which tells on standard error where it is."""
        parts = ["set -eu\nat() { printf '\\n@ %s\\n' \"$1\" >&2; }\n"]
        for block in self.blocks:
            if block.runnable:
                parts.append(f"at {shlex.quote(f'{self.name}:{block.line}')}\n")
                parts.append(block.text if block.language == "sh" else _written(block))
        return "".join(parts)


def _written(block: Block) -> str:
    """Shell that writes the block to its file."""
    return f"cat >{shlex.quote(block.file or '')} <<'END OF BLOCK'\n{block.text}END OF BLOCK\n"


def documents() -> list[Document]:
    """All of them, in a fixed order."""
    paths = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [Document(str(path.relative_to(ROOT)), path.read_text("utf-8")) for path in paths]


def appears(excerpt: str, output: str) -> list[str]:
    """Lines of an excerpt that the output has nowhere; `…` stands for anything, spaces for some."""
    have = {" ".join(line.split()) for line in output.splitlines()}
    missing = []
    for line in excerpt.splitlines():
        wanted = " ".join(line.split())
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.split("…")))
        if not any(pattern.fullmatch(item) for item in have):
            missing.append(line)
    return missing
