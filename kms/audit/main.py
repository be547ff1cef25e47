"""`kms-audit`: verify a log's record offline, trusting nobody who took part in making it.

Exit status: 0 all checks hold, 1 a check failed, 2 usage or environment.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from kms import wire
from kms.audit import layout
from kms.audit.assessment import Assessment, Given, assess
from kms.audit.certificates import load
from kms.audit.findings import Check
from kms.audit.layout import LayoutError
from kms.audit.prove import ProveError, prove
from policies.policy import Policy, PolicyError, every_shipped
from policies.policy import load as load_policy

OK, FAILED, USAGE = 0, 1, 2
_SHOWN = 20
"""Failures of one check that the table shows; `--json` has them all."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except LayoutError as error:
        sys.stderr.write(f"kms-audit: {error}\n")
        return USAGE
    except ProveError as error:
        sys.stderr.write(f"kms-audit: {error}\n")
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kms-audit",
        description="Verify the record of a key management service, offline.",
        epilog="Exit status: 0 all checks hold, 1 a check failed, 2 usage or environment.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("verify", _verify, "check everything in an audit directory"),
        ("report", _report, "verify, then tell what the log says has happened"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        _add_common(command)
        command.add_argument("--root", type=Path, metavar="FILE", help="root certificate you trust")
        command.add_argument(
            "--cosigner",
            type=Path,
            metavar="FILE",
            help="key of the log's cosigner that you trust; default DIR/log-cosigner.vkey",
        )
        command.add_argument(
            "--policy",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help="a policy (TOML) to decide again with; the shipped ones are always at hand",
        )
        command.add_argument(
            "--from",
            dest="older",
            type=Path,
            metavar="CHECKPOINT",
            help="an older checkpoint that the log must extend",
        )
        command.add_argument(
            "--earlier",
            type=Path,
            action="append",
            default=[],
            metavar="DIR",
            help="audit directory of an earlier epoch of the log; oldest first",
        )
        command.add_argument(
            "--seal",
            type=Path,
            metavar="FILE",
            help="an older seal: the signer's journal must extend what it was for",
        )
        command.set_defaults(run=run)
    command = commands.add_parser("prove", help="make a receipt for one event")
    _add_common(command)
    command.add_argument("index", type=_index, metavar="INDEX", help="index of the event, from 0")
    command.add_argument("--out", type=Path, metavar="FILE", help="write it there, not to stdout")
    command.set_defaults(run=_prove)
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("directory", type=Path, metavar="DIR", help="the audit directory")
    command.add_argument(
        "--vkey", type=Path, metavar="FILE", help="log key you trust; default DIR/log.vkey"
    )
    command.add_argument("--json", action="store_true", help="machine-readable output")


def _index(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise argparse.ArgumentTypeError(f"not an index: {text[:40]!r}")
    return int(text)


def _read(arguments: argparse.Namespace) -> layout.Record:
    vkey = layout.read_text(arguments.vkey) if arguments.vkey else None
    return layout.read(arguments.directory, vkey)


def _assess(arguments: argparse.Namespace) -> Assessment:
    root: bytes | None = None
    if arguments.root:
        certificate = load(layout.read_text(arguments.root).encode())
        if certificate is None:
            raise LayoutError(f"{arguments.root} is not one certificate in PEM")
        root = certificate.public_bytes(Encoding.DER)
    older, seal, cosigner = arguments.older, arguments.seal, arguments.cosigner
    given = Given(
        root=root,
        cosigner=layout.read_text(cosigner).strip() if cosigner else None,
        earlier=tuple(layout.read(directory) for directory in arguments.earlier),
        older=(str(older), layout.read_text(older).encode()) if older else None,
        older_seal=(str(seal), layout.read_text(seal).encode()) if seal else None,
        policies={policy.hash: policy for policy in _policies(arguments.policy)},
    )
    return assess(_read(arguments), given)


def _policies(paths: Sequence[Path]) -> list[Policy]:
    policies = list(every_shipped())
    for path in paths:
        try:
            policies.append(load_policy(layout.read_text(path, 256 * 1024).encode()))
        except PolicyError as error:
            raise LayoutError(f"{path}: {error}") from error
    return policies


def _verify(arguments: argparse.Namespace) -> int:
    result = _assess(arguments)
    if arguments.json:
        _print_json(_document(result))
    else:
        sys.stdout.write(_table(result))
    return OK if result.ok else FAILED


def _report(arguments: argparse.Namespace) -> int:
    result = _assess(arguments)
    if arguments.json:
        _print_json(_document(result) | {"report": _tally(result)})
    else:
        sys.stdout.write(_table(result) + "\n" + _story(result))
    return OK if result.ok else FAILED


def _prove(arguments: argparse.Namespace) -> int:
    receipt = prove(_read(arguments), arguments.index)
    if arguments.out:
        try:
            arguments.out.write_bytes(receipt)
        except OSError as error:
            raise LayoutError(f"cannot write {arguments.out}: {error.strerror}") from error
    elif arguments.json:
        _print_json({"index": arguments.index, "receipt": receipt.decode()})
    else:
        sys.stdout.write(receipt.decode())
    return OK


def _print_json(document: object) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _document(result: Assessment) -> dict[str, object]:
    return {
        "ok": result.ok,
        "origin": result.origin,
        "size": result.size,
        "failures": result.failures,
        "checks": [check.document() for check in result.checks],
    }


def _table(result: Assessment) -> str:
    lines = [_row(check) for check in result.checks]
    if result.ok:
        lines.append(f"verdict: every check holds for {result.size} events of {result.origin}")
    else:
        first = next(check.failures[0] for check in result.checks if check.failures)
        verdict = f"verdict: FAILED, {result.failures} failures; first: {first}"
        lines.append(_printable(verdict))
    return "\n".join(lines) + "\n"


def _row(check: Check) -> str:
    verdict = "ok" if check.ok else "FAILED"
    lines = [f"{verdict:<7} {check.name:<13} {check.examined:>6}  {check.claim}"]
    lines += [f"        - {failure}" for failure in check.failures[:_SHOWN]]
    if len(check.failures) > _SHOWN:
        lines.append(f"        - and {len(check.failures) - _SHOWN} more (--json has all)")
    lines += [f"        note: {note}" for note in check.notes]
    return "\n".join(map(_printable, lines))


def _printable(text: str) -> str:
    """The record's author must not steer the auditor's terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def _tally(result: Assessment) -> dict[str, object]:
    """What the log says, in figures."""
    leaves = [result.events[index] for index in sorted(result.events)]
    history = result.history
    return {
        "from": wire.timestamp(leaves[0].time) if leaves else None,
        "until": wire.timestamp(leaves[-1].time) if leaves else None,
        "events": dict(sorted(Counter(leaf.type.value for leaf in leaves).items())),
        "issued": dict(
            sorted(Counter(item.certificate.profile for item in history.issued.values()).items())
        ),
        "revoked": dict(sorted(Counter(item.reason for item in history.revoked.values()).items())),
        "authorities": {name: len(items) for name, items in sorted(history.authorities.items())},
        "crls": {name: items[-1].number for name, items in sorted(history.lists.items())},
        "policies": list(history.policies.values()),
    }


def _story(result: Assessment) -> str:
    lines: list[str] = []
    for title, value in _tally(result).items():
        if isinstance(value, dict):
            lines.append(f"{title}:")
            lines += [f"  {_printable(name):<24} {count:>8}" for name, count in value.items()]
        else:
            text = ", ".join(value) if isinstance(value, list) else value
            lines.append(f"{title}: {text}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
