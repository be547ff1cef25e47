"""A checkout in which `make serve` was run once, for what documents tell their readers to do.

`var/kms` is made by `scripts/serve.sh` itself; only the three ports differ, so that services can
run side by side. Readers use systemd: here `systemctl` and `journalctl` are scripts of a few lines.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.documents import ROOT
from tests.support.running import LISTENERS, free_ports

PORTS = dict(zip(LISTENERS, ("8443", "8080", "9464"), strict=True))
"""Where the documents, and `make serve`, have the listeners."""
BORROWED = (".venv", "softhsm", "docs")

SYSTEMCTL = """\
#!/bin/sh
# systemctl start|stop|restart kms
set -eu
cd "$(dirname "$0")/../.."
pid=$(cat var/kms/run/supervisor.pid 2>/dev/null || true)
running() { [ -n "$pid" ] && grep -qs '^State:.[^ZX]' "/proc/$pid/status"; }
stop() {
    running || return 0
    kill "$pid"
    while running; do sleep 0.05; done
}
start() {
    rm -f var/kms/run/state.json
    setsid .venv/bin/kms serve --home "$PWD/var/kms" >>var/journal 2>&1 </dev/null &
    service=$!
    tries=0
    until grep -q '"ready": true' var/kms/run/state.json 2>/dev/null; do
        kill -0 "$service" 2>/dev/null && [ "$tries" -lt 600 ] || exit 1
        tries=$((tries + 1))
        sleep 0.05
    done
}
[ "$2" = kms ]
case $1 in
stop) stop ;;
start) start ;;
restart) stop && start ;;
*) exit 2 ;;
esac
"""
JOURNALCTL = """\
#!/bin/sh
# journalctl -u kms …
cat "$(dirname "$0")/../journal"
"""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A directory with what a reader has: `.venv`, scripts, and `var/kms` after `make serve`."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "var" / "kms"

    @property
    def ports(self) -> dict[str, str]:
        """Port of each listener, by name."""
        text = (self.home / "kms.toml").read_text()
        found = re.findall(r'(?m)^(\w+) = "127\.0\.0\.1:(\d+)"$', text)
        return {name: port for name, port in found if name in LISTENERS}

    def run(self, script: str, seconds: float = 220) -> subprocess.CompletedProcess[str]:
        """Run a shell script as a reader's shell would; its ports become this service's."""
        for name, port in self.ports.items():
            script = re.sub(rf"(?<=:){PORTS[name]}\b", port, script)
        return subprocess.run(
            ["sh"],
            input=script,
            cwd=self.root,
            env=_environment(self.root),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )

    def systemctl(self, verb: str) -> None:
        """Start or stop the service."""
        done = self.run(f"systemctl {verb} kms\n")
        journal = self.root / "var" / "journal"
        assert done.returncode == 0, done.stdout + journal.read_text()[-2000:]

    def copy(self, root: Path) -> "Checkout":
        """Another checkout like this one, with a token, ports and memory of its own."""
        shutil.copytree(self.root, root, symlinks=True)
        root.chmod(0o711)
        places = {str(self.root): str(root)}
        new = dict(zip(self.ports.values(), map(str, free_ports(3)), strict=True))
        places |= {f":{old}": f":{port}" for old, port in new.items()}
        for path in (root / "var/kms/kms.toml", root / "var/kms/token/softhsm2.conf"):
            text = path.read_text()
            for old, there in places.items():
                text = text.replace(old, there)
            path.write_text(text)
        return Checkout(root)


def _environment(root: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    path = f"{root}/var/bin:{os.environ['PATH']}:/usr/sbin:/sbin"
    return kept | {"PATH": path, "HOME": str(root / "var"), "COLUMNS": "140"}


def make_checkout(root: Path) -> Checkout:
    """Run `scripts/serve.sh` for the first time, up to the service itself."""
    for name in BORROWED:
        (root / name).symlink_to(ROOT / name)
    (root / "scripts").mkdir()
    script = (ROOT / "scripts" / "serve.sh").read_text()
    ports = dict(zip(LISTENERS, free_ports(3), strict=True))
    flags = " ".join(f"--{name} 127.0.0.1:{port}" for name, port in ports.items())
    for old, new in (
        ("http://127.0.0.1:8080", f"http://127.0.0.1:{ports['public']} {flags}"),
        ("exec $kms serve", "exec echo would run: $kms serve"),
    ):
        assert script.count(old) == 1, f"scripts/serve.sh has changed: {old}"
        script = script.replace(old, new)
    (root / "scripts" / "serve.sh").write_text(script)
    done = subprocess.run(
        ["sh", "scripts/serve.sh"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tools = root / "var" / "bin"
    tools.mkdir()
    for name, text in (("systemctl", SYSTEMCTL), ("journalctl", JOURNALCTL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return Checkout(root)
