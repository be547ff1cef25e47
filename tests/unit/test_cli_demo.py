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


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(SurroundingsError, match="left alone"):
        place.clear(Place.at(tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_file_or_link_in_the_way_is_left_alone(tmp_path: Path) -> None:
    home = tmp_path / "demo-service"
    home.write_text("a file")
    with pytest.raises(SurroundingsError, match="no directory"):
        place.clear(Place.at(tmp_path / "demo"))
    assert home.read_text() == "a file"


def test_an_earlier_demonstration_is_remade(tmp_path: Path) -> None:
    here = Place.at(tmp_path / "demo")
    for path in (here.record / "summary.json", here.home / "kms.toml", here.signer_state / "lock"):
        path.parent.mkdir(parents=True)
        path.write_text("old")
    place.clear(here)
    assert list(here.record.iterdir()) == []
    assert not here.home.exists()
    assert not here.signer_state.exists()


def test_ports_differ() -> None:
    ports = place.free_ports()
    assert len({ports.api, ports.public, ports.operator}) == 3
