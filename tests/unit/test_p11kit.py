"""p11-kit's configuration, read."""

from pathlib import Path

from kms.cli.p11kit import ConfiguredModule, configured_modules


def test_the_administrator_s_file_stands_over_the_package_s(tmp_path: Path) -> None:
    package, own = tmp_path / "package", tmp_path / "own"
    package.mkdir()
    own.mkdir()
    (package / "a.module").write_text("module: /one.so\n# module: /two.so\nmanaged: yes\n")
    (package / "b.module").write_text("module: /b.so # of the package\n")
    (own / "b.module").write_text("remote: |ssh host p11-kit remote /b.so\n")
    (own / "c.module").write_text("enable-in: nobody\n")
    (own / "d.conf").write_text("module: /d.so\n")
    (own / "e.module").write_bytes(b"\xff\xfe\x00module: /e.so")
    assert configured_modules([package, own]) == [
        ConfiguredModule("a", "/one.so", ""),
        ConfiguredModule("b", "", "|ssh host p11-kit remote /b.so"),
    ]
    assert configured_modules([tmp_path / "nowhere"]) == []
