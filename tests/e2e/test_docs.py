"""What the documents say is so: commands run, outputs, links, keys and names exist."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydantic import BaseModel

from kms.settings import GIVEN, Settings
from tests.e2e.conftest import _once
from tests.support.checkout import Checkout, make_checkout
from tests.support.documents import LANGUAGES, ROOT, Document, appears, documents
from tests.support.running import alive, reachable_directory

pytestmark = pytest.mark.timeout(240)

DOCUMENTS = documents()
COMMANDED = [item for item in DOCUMENTS if any(block.runnable for block in item.blocks)]
KEYS = ROOT / "docs" / "guides" / "operator.md"


def named(item: Document) -> str:
    return item.name


@pytest.fixture(scope="session")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout after its first `make serve`; tests copy it."""
    return Checkout(_once(tmp_path_factory, "founded", make_checkout))


@pytest.fixture
def checkout(founded: Checkout) -> Iterator[Checkout]:
    """A checkout with a running service of its own."""
    with ExitStack() as stack:
        folder = stack.enter_context(reachable_directory())
        made = founded.copy(folder / "own")
        stack.callback(_stop, made)
        made.systemctl("start")
        yield made


def _stop(checkout: Checkout) -> None:
    """Whatever a document left running ends."""
    run = checkout.home / "run"
    pids = [int(path.read_text()) for path in run.glob("*.pid")]
    checkout.systemctl("stop")
    assert [pid for pid in pids if alive(pid)] == []


@pytest.mark.parametrize("document", COMMANDED, ids=named)
def test_commands_do_what_the_text_says(document: Document, checkout: Checkout) -> None:
    done = checkout.run(document.script())
    where = re.findall(rf"^@ ({re.escape(document.name)}:\d+)$", done.stdout, re.MULTILINE)
    said = "\n".join(done.stdout.splitlines()[-40:])
    assert done.returncode == 0, f"the block at {where[-1:]} failed:\n{said}"
    for block in document.blocks:
        if block.comment == "output":
            missing = appears(block.text, done.stdout)
            assert missing == [], f"{document.name}:{block.line}: not printed; it was:\n{said}"


def test_the_excerpt_of_the_demonstration(demonstration: Path) -> None:
    output = (demonstration.parent / "output").read_text()
    (readme,) = [item for item in DOCUMENTS if item.name == "README.md"]
    (block,) = [item for item in readme.blocks if item.comment == "output of make demo"]
    assert appears(block.text, output) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_blocks_say_whether_they_are_run(document: Document) -> None:
    for block in document.blocks:
        where = f"{document.name}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: language {block.language!r}"
        if block.language == "console":
            assert block.comment.startswith("not run: "), f"{where}: say why it is not run"
            assert block.text.startswith("$ "), f"{where}: commands begin with $"
        if block.language == "python":
            assert block.file, f"{where}: name its file in the first line"
        if block.language == "text":
            assert not re.search(r"^\$ ", block.text, re.MULTILINE), f"{where}: use console or sh"
    assert document.text.count("\n```") % 2 == 0, f"{document.name}: a fence is not closed"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Document) -> None:
    anchors = {item.path: item.anchors for item in DOCUMENTS}
    for link in document.links:
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.path.parent / path).resolve() if path else document.path
        assert target.exists(), f"{document.name}: {link}"
        assert target.is_relative_to(ROOT), f"{document.name}: {link} leaves the project"
        if anchor:
            assert anchor in anchors.get(target, set()), f"{document.name}: {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_files_and_tests_that_are_named_exist(document: Document) -> None:
    """Anything in backquotes that looks like a file of the project, and tests as `file::name`."""
    for path, test in re.findall(
        r"`((?:docs|hsm_drivers|kms|pki|policies|requirements|scripts|softhsm|tests)/[\w./-]*\w)"
        r"(?:::(\w+))?`",
        document.prose,
    ):
        assert (ROOT / path).exists(), f"{document.name}: {path}"
        if test:
            text = (ROOT / path).read_text()
            assert re.search(rf"def {test}\b", text), f"{document.name}: {path}::{test}"


def test_every_document_is_reached_from_the_readme() -> None:
    by_path = {item.path: item for item in DOCUMENTS}
    found, open_ends = set(), [ROOT / "README.md"]
    while open_ends:
        path = open_ends.pop()
        if path in found or path not in by_path:
            continue
        found.add(path)
        links = [link.partition("#")[0] for link in by_path[path].links]
        targets = [(path.parent / link).resolve() for link in links if link]
        open_ends += targets
        open_ends += [
            each for folder in targets if folder.is_dir() for each in sorted(folder.glob("*.md"))
        ]
    assert by_path.keys() - found == set()


def _settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _settings(kind, f"{name}.")
        elif prefix or name not in GIVEN:
            yield f"{prefix}{name}"


def test_every_key_of_the_settings_is_explained() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", KEYS.read_text(), re.MULTILINE)
    assert rows == list(_settings(Settings))
