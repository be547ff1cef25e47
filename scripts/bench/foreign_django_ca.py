"""django-ca as a black box: its Python API with its HSM backend, on a SoftHSM2 token of its own.

    foreign_django_ca.py DIR MODULE TOKEN_LABEL PIN_FILE

Runs in an environment that has django-ca (`var/build/django-ca`, made by the Makefile). Keeps its
database in DIR, makes a P-256 authority on the token, then takes JSON lines on standard input, as
`load.py` does: {"do": "sign", "seconds": S, "held": B}. By itself django-ca opens the token and
logs in for each certificate; with `held`, a session of its own pool stays open meanwhile.
"""

import contextlib
import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from django.conf import settings
from django.urls import include, path

_REQUESTS = 200
_P256 = "secp256r1"


def configure(directory: Path, module: str, label: str, pin: str) -> None:
    """Django with nothing but django-ca in it."""
    settings.configure(
        SECRET_KEY="for a benchmark on loopback",  # noqa: S106 - signs nothing
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_ca"],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": directory / "ca.sqlite3"}
        },
        STORAGES={
            "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
            "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
            "django-ca": {
                "BACKEND": "django.core.files.storage.FileSystemStorage",
                "OPTIONS": {"location": str(directory)},
            },
        },
        CA_KEY_BACKENDS={
            "default": {
                "BACKEND": "django_ca.key_backends.hsm.HSMBackend",
                "OPTIONS": {"library_path": module, "token": label, "user_pin": pin},
            }
        },
        CA_DEFAULT_HOSTNAME="pki.bench.example",
        CA_USE_CELERY=False,
        USE_TZ=True,
    )
    django.setup()
    settings.ROOT_URLCONF = (path("ca/", include("django_ca.urls")),)  # certificates name URLs


class Authority:
    """One authority on the token, and requests for it to certify."""

    def __init__(self, pool: contextlib.AbstractContextManager[Any]) -> None:
        from django.core.management import call_command  # noqa: PLC0415 - needs the settings
        from django_ca.key_backends import key_backends  # noqa: PLC0415 - as above
        from django_ca.key_backends.hsm.models import (  # noqa: PLC0415 - as above
            HSMCreatePrivateKeyOptions,
        )
        from django_ca.models import Certificate, CertificateAuthority  # noqa: PLC0415 - as above

        call_command("migrate", verbosity=0)
        backend = key_backends["default"]
        context = {"context": {"backend": backend}}
        create = {"key_label": "bench-ca", "key_type": "EC", "elliptic_curve": _P256}
        self._authority = CertificateAuthority.objects.init(
            name="bench",
            key_backend=backend,
            key_backend_options=HSMCreatePrivateKeyOptions.model_validate(create, **context),
            subject=_name("bench CA"),
            not_after=datetime.now(UTC) + timedelta(days=365),
            key_type="EC",
            algorithm=hashes.SHA256(),
        )
        self._options = backend.use_model.model_validate({}, **context)
        self._certificates = Certificate.objects
        self._pool = pool
        self._requests = [_request(number) for number in range(_REQUESTS)]

    def sign(self, seconds: float, *, held: bool) -> dict[str, Any]:
        """Certify until the time is over."""
        with self._pool if held else contextlib.nullcontext():
            return self._sign(seconds)

    def _sign(self, seconds: float) -> dict[str, Any]:
        done, started = 0, time.perf_counter()
        while (now := time.perf_counter()) - started < seconds:
            number = done % _REQUESTS
            self._certificates.create_cert(
                self._authority,
                self._options,
                self._requests[number],
                subject=_name(f"device-{number}.bench.example"),
                algorithm=hashes.SHA256(),
            )
            done += 1
        return {"requests": done, "seconds": now - started}


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _request(number: int) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(f"device-{number}"))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


def main() -> None:
    """Do what standard input says until it ends."""
    directory, module, label, pin_file = sys.argv[1:]
    pin = Path(pin_file).read_text(encoding="utf-8").strip()
    configure(Path(directory), module, label, pin)
    from django_ca.key_backends.hsm.session import SessionPool  # noqa: PLC0415 - needs the settings

    authority = Authority(SessionPool(module, label, None, pin))
    for line in iter(sys.stdin.readline, ""):
        wanted = json.loads(line)
        if wanted.pop("do") != "sign":
            raise ValueError("sign is all that is done here")
        print(json.dumps(authority.sign(**wanted)), flush=True)


if __name__ == "__main__":
    main()
