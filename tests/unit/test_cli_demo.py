"""The demonstration is an outsider, and takes nothing down that is not its own."""

import ast
from pathlib import Path

import pytest

from kms.cli.demo import people, place
from kms.cli.demo.errors import SurroundingsError
from kms.cli.demo.place import Place

PACKAGE = Path(people.__file__).parent
OURS = {"kms", "pki", "policies", "hsm_drivers"}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] in OURS}


def test_it_imports_nothing_of_the_service_but_the_device_client() -> None:
    for path in PACKAGE.glob("*.py"):
        foreign = {
            name for name in _imports(path) if not name.startswith(("kms.device", "kms.cli.demo"))
        }
        assert not foreign, f"{path.name} imports {foreign}"


def test_there_are_enough_people_devices_and_algorithms() -> None:
    everyone = [*people.SINGLE, *people.TOGETHER]
    assert len({item.user for item in everyone}) >= 3
    assert len({item.device for item in everyone}) == len(everyone) >= 5
    assert {item.identity for item in everyone} >= {"ECDSA-P256", "Ed25519", "ML-DSA-65"}
    assert {item.kem for item in everyone} >= {"MLKEM768-X25519", "MLKEM1024-P384"}
    assert {item.bundle for item in everyone} == {"device", "device-identity"}
    assert people.REVOKED in {item.user for item in everyone}


def _parts(here: Place) -> tuple[Path, Path, Path]:
    return here.record, here.home, here.signer_state


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(
    "content", ["thesis.txt", "log/thesis.txt", "ca/root.pem", "token/x", "summary.json", "lock"]
)
def test_a_directory_of_something_else_is_left_alone(
    tmp_path: Path, which: int, content: str
) -> None:
    """Whatever it looks like, and whichever of the three it is: without the marker it stays."""
    here = Place.at(tmp_path / "demo")
    place.clear(here)
    foreign = _parts(here)[which]
    (foreign / place.MARKER).unlink()
    for directory in _parts(here):
        (directory / content).parent.mkdir(exist_ok=True)
        (directory / content).write_text("precious")
    with pytest.raises(SurroundingsError, match="left alone") as caught:
        place.clear(here)
    assert str(foreign) in str(caught.value)
    for directory in _parts(here):
        assert (directory / content).read_text() == "precious"


def test_a_marker_is_a_file_of_its_own(tmp_path: Path) -> None:
    here = Place.at(tmp_path / "demo")
    here.record.mkdir()
    (here.record / "thesis.txt").write_text("precious")
    (tmp_path / "elsewhere").write_text("")
    (here.record / place.MARKER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SurroundingsError, match="left alone"):
        place.clear(here)
    assert (here.record / "thesis.txt").exists()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_file_or_link_in_the_way_is_left_alone(tmp_path: Path, which: int) -> None:
    here = Place.at(tmp_path / "demo")
    in_the_way = _parts(here)[which]
    in_the_way.write_text("a file")
    with pytest.raises(SurroundingsError, match="no directory"):
        place.clear(here)
    assert in_the_way.read_text() == "a file"
    in_the_way.unlink()
    in_the_way.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SurroundingsError, match="no directory"):
        place.clear(here)
    assert [path.name for path in tmp_path.iterdir()] == [in_the_way.name]


@pytest.mark.parametrize("directory", ["/", ".."])
def test_a_path_without_a_name_is_refused(directory: str) -> None:
    with pytest.raises(SurroundingsError, match="name a directory"):
        Place.at(Path(directory))


def test_empty_directories_become_a_demonstration(tmp_path: Path) -> None:
    here = Place.at(tmp_path / "demo")
    here.record.mkdir()
    place.clear(here)
    for directory in _parts(here):
        assert [path.name for path in directory.iterdir()] == [place.MARKER]
        assert (directory / place.MARKER).stat().st_mode & 0o777 == 0o600
    assert here.signer_state.stat().st_mode & 0o777 == 0o700


def test_an_earlier_demonstration_is_remade(tmp_path: Path) -> None:
    here = Place.at(tmp_path / "demo")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("precious")
    place.clear(here)
    for directory in _parts(here):
        (directory / "data").mkdir()
        (directory / "data" / "old").write_text("old")
        (directory / "link").symlink_to(elsewhere)
    place.clear(here)
    for directory in _parts(here):
        assert [path.name for path in directory.iterdir()] == [place.MARKER]
    assert (elsewhere / "thesis.txt").read_text() == "precious"


def test_what_a_crash_in_the_middle_leaves_is_remade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Place.at(tmp_path / "demo")
    place.clear(here)
    for name in "abc":
        (here.record / name).mkdir()

    def crash(path: Path) -> None:
        if path.name == "b":
            raise KeyboardInterrupt
        path.rmdir()

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", crash)
        with pytest.raises(KeyboardInterrupt):
            place.clear(here)
    place.clear(here)
    assert [path.name for path in here.record.iterdir()] == [place.MARKER]


def test_ports_differ() -> None:
    ports = place.free_ports()
    assert len({ports.api, ports.public, ports.operator}) == 3
