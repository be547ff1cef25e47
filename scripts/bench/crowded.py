"""How fast a token signs through the driver, however much else it holds.

    crowded.py DIR fill N           make N key pairs on the token in DIR
    crowded.py DIR sign SECONDS     sign in one thread; prints {"signatures": N, "seconds": S}

Processes of their own, since a PKCS#11 module is configured by the environment that a process
starts with.
"""

import json
import secrets
import subprocess
import sys
import time
import uuid
from pathlib import Path

from places import MODULE, BenchError, make_token, softhsm

from hsm_drivers.errors import KeyNotFoundError
from hsm_drivers.pin import Pin
from hsm_drivers.pkcs11.driver import Pkcs11Driver
from hsm_drivers.ports import KeyLabel

_KEY = KeyLabel("bench")
_ALGORITHM = "ECDSA-P256"
_LABEL = "bench-crowded"
_FILLERS = 5
_MESSAGES = 64


def make_crowded(directory: Path, objects: int) -> Path:
    """A token with at least that many objects; answers its directory.

    Making 10,000 keys takes SoftHSM2 most of an hour, so a few are made and their files copied
    under new names: it keeps one object in a file, and takes each for an object of its own.
    """
    token = make_token(directory, _LABEL)
    _run(token, "fill", str(_FILLERS))
    (store,) = (token / "tokens").iterdir()
    fillers = [path for path in store.glob("*.object") if path.name != "token.object"]
    patterns = [(path.read_bytes(), path.with_suffix(".lock")) for path in fillers]
    for number in range(objects - len(fillers)):
        content, lock = patterns[number % len(patterns)]
        name = str(uuid.uuid4())
        (store / f"{name}.object").write_bytes(content)
        if lock.exists():
            (store / f"{name}.lock").touch()
    return token


def crowded_rate(token: Path, seconds: float) -> float:
    """Signatures a second; opening the token is not part of the time."""
    done = json.loads(_run(token, "sign", str(seconds)))
    return float(done["signatures"]) / float(done["seconds"])


def _run(token: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, __file__, token, *arguments],
        env=softhsm(token),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(done.stderr.strip())
    return done.stdout


def _fill(driver: Pkcs11Driver, pairs: int) -> None:
    for number in range(pairs):
        driver.generate(KeyLabel(f"filler-{number}"), _ALGORITHM)


def _sign(driver: Pkcs11Driver, seconds: float) -> None:
    try:  # as the signer does: a list of all labels would give every object a handle
        driver.attributes(_KEY)
    except KeyNotFoundError:
        driver.generate(_KEY, _ALGORITHM)
    messages = [secrets.token_bytes(600) for _ in range(_MESSAGES)]
    driver.sign(_KEY, messages[0])  # the search
    done, started = 0, time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        driver.sign(_KEY, messages[done % _MESSAGES])
        done += 1
    print(json.dumps({"signatures": done, "seconds": now - started}))


def main() -> None:
    """Do what the command line says."""
    token, do, amount = sys.argv[1:]
    pin = (Path(token) / "pin").read_text(encoding="utf-8").strip()
    driver = Pkcs11Driver(str(MODULE), _LABEL, Pin(pin))
    try:
        if do == "fill":
            _fill(driver, int(amount))
        else:
            _sign(driver, float(amount))
    finally:
        driver.close()


if __name__ == "__main__":
    main()
