"""Replaying the log: every event must be possible after those before it. Pure.

What is checked here needs no certificate, only the leaves and, to know persons again, openings.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from kms import wire
from kms.audit.details import in_age, malformed
from kms.audit.findings import Check, event
from kms.audit.forms import FORMS, ROLES
from kms.audit.history import History, Issued, ListIssued, Revoked, TenantRegistered
from kms.audit.key_lives import KeyLives
from kms.audit.leaves import parse_leaf
from kms.audit.names import Names
from kms.wire import EventType

_HELD = {"sensitive": True, "extractable": False}
"""Attributes of every private key that was born on a token (promise P2)."""
_ORPHAN_REASON = "cessation-of-operation"
_REVOKING = frozenset(
    {
        EventType.CERTIFICATE_ORPHANED,
        EventType.CERTIFICATE_REVOKED,
        EventType.DEVICE_REVOKED,
        EventType.USER_REVOKED,
    }
)
_CERTIFYING = _REVOKING | {kind for form in FORMS.values() for kind in form.events}
"""Events that certificates may stand in."""
_DOMAIN = re.compile(r"[a-z0-9.-]{1,253}")
_HASH = re.compile(r"[0-9a-f]{64}")


def check_events(leaves: list[bytes], origin: str | None) -> tuple[Check, dict[int, wire.Leaf]]:
    """Every leaf follows the schema, is of this log, and its event id stands once."""
    check = Check("events", "every leaf is a canonical event of this log", examined=len(leaves))
    events: dict[int, wire.Leaf] = {}
    seen: dict[str, int] = {}
    for index, data in enumerate(leaves):
        try:
            leaf = parse_leaf(data)
        except wire.WireError as error:
            check.fail(event(index), str(error))
            continue
        events[index] = leaf
        if origin is not None and leaf.origin != origin:
            check.fail(event(index), f"is of the log {leaf.origin!r}")
        if seen.setdefault(leaf.event, index) != index:
            check.fail(event(index), f"has the id of event {seen[leaf.event]}")
        if not in_age(leaf.time):
            check.fail(event(index), f"{wire.timestamp(leaf.time)} is of no year of a log")
            del events[index]
            continue
        for name in malformed(leaf):
            check.fail(event(index), f"{leaf.type}: detail {name!r} is missing or malformed")
            events.pop(index, None)
    return check, events


def replay(
    events: Mapping[int, wire.Leaf], names: Names, lost: Mapping[int, wire.Leaf]
) -> tuple[Check, History]:
    """Run through all events.

    Args:
        events: Index to leaf, well formed.
        names: What the openings tell.
        lost: Events that a later epoch did not go on from.
    """
    run = _Replay(names)
    for index in sorted(events):
        run.step(index, events[index])
    run.finish()
    run.settle(lost)
    return run.check, run.history


class _Replay:
    """The state between two events."""

    def __init__(self, names: Names) -> None:
        self.check = Check("history", "every event was possible after those before it")
        self.history = History()
        self._lives = KeyLives(self.check)
        self._names = names
        self._hashes: dict[str, int] = {}
        self._devices: dict[tuple[str, str], tuple[str, str]] = {}
        self._roles: dict[tuple[str, str], str] = {}
        self._unused_numbers: set[tuple[str, int]] = set()
        self._last: tuple[int, wire.Leaf] | None = None
        self._steps: dict[EventType, Callable[[int, wire.Leaf], None]] = {
            EventType.LOG_OPENED: self._opened,
            EventType.KEY_GENERATED: self._key,
            EventType.KEY_REPLICATED: self._replicated,
            EventType.KEY_MOVED: self._known_key,
            EventType.AUTHORITY_CREATED: self._authority,
            EventType.POLICY_ACTIVATED: self._policy,
            EventType.CERTIFICATE_ISSUED: self._principal_certified,
            EventType.CERTIFICATE_ORPHANED: self._orphaned,
            EventType.CERTIFICATE_REVOKED: self._certificate_revoked,
            EventType.CRL_ISSUED: self._list,
            EventType.CRL_ORPHANED: self._list_orphaned,
            EventType.DEVICE_ENROLLED: self._enrolled,
            EventType.DEVICE_RENEWED: self._enrolled,
            EventType.DEVICE_REVOKED: self._device_revoked,
            EventType.PRINCIPAL_REGISTERED: self._principal,
            EventType.TENANT_REGISTERED: self._tenant,
            EventType.USER_REVOKED: self._user_revoked,
        }

    def step(self, index: int, leaf: wire.Leaf) -> None:
        """One event."""
        self.check.examined += 1
        if self._last and leaf.time < self._last[1].time:
            self.check.fail(event(index), f"is older than event {self._last[0]} before it")
        self._last = index, leaf
        self.history.last = leaf.time
        if leaf.certificates and leaf.type not in _CERTIFYING:
            self.check.fail(event(index), f"{leaf.type} holds certificates; it has none to hold")
        act = self._steps.get(leaf.type)
        if act is not None:
            act(index, leaf)
        self._lives.step(index, leaf)

    def _opened(self, index: int, leaf: wire.Leaf) -> None:
        """The birth of the log's key tells of it as of any other key's."""
        if _detail(leaf).get("public_key_sha256") is not None:
            self._key(index, leaf)

    def _key(self, index: int, leaf: wire.Leaf) -> None:
        """A key is born; that of a slot, which others seal to, with its certificate."""
        if leaf.certificates:
            self._issued(index, leaf)
        detail = _detail(leaf)
        self.history.keys.add(detail["public_key_sha256"])
        label, protection = detail.get("label"), detail.get("protection")
        if protection != "token":
            self.check.notes.append(f"key {label} is held as {protection!r}, not by a token alone")
            return
        attributes = detail.get("attributes")
        for name, wanted in _HELD.items():
            held = isinstance(attributes, dict) and attributes.get(name) is wanted
            message = f"key {label}: {name} is not {str(wanted).lower()}"
            self.check.expect(held, event(index), message)

    def _replicated(self, index: int, leaf: wire.Leaf) -> None:
        """A replica is of a key that was born before, and can leave its token no more than that."""
        self._known_key(index, leaf)
        detail = _detail(leaf)
        attributes = detail["attributes"]
        sealed = attributes.get("sensitive") is True and (
            attributes.get("extractable") is False or attributes.get("wrap_with_trusted") is True
        )
        message = f"key {detail['label']}: its replica on {detail['token']} could leave that token"
        self.check.expect(sealed, event(index), message)

    def _known_key(self, index: int, leaf: wire.Leaf) -> None:
        known = _detail(leaf)["public_key_sha256"] in self.history.keys
        self.check.expect(known, event(index), f"{leaf.type}: of a key whose birth is not told")

    def _authority(self, index: int, leaf: wire.Leaf) -> None:
        """A CA stands under an authority that exists; the root under itself."""
        name = _detail(leaf)["name"]
        if not self.check.expect(
            len(leaf.certificates) == 1, event(index), "an authority has exactly one certificate"
        ):
            return
        (certificate,) = leaf.certificates
        if certificate.authority != name:
            self._known_authority(index, certificate.authority)
        generations = self.history.authorities.setdefault(name, [])
        expected = len(generations) + 1
        self.check.expect(
            _detail(leaf)["generation"] == expected,
            event(index),
            f"authority {name}: generation {expected} was to follow",
        )
        generations.append(Issued(index, leaf, certificate))
        self._issue(index, leaf, certificate)

    def _policy(self, index: int, leaf: wire.Leaf) -> None:
        digest = _detail(leaf)["hash"]
        good = self.check.expect(_HASH.fullmatch(digest), event(index), "not a policy hash")
        if good:
            self.history.policies[index] = digest

    def _tenant(self, index: int, leaf: wire.Leaf) -> None:
        """Every tenant has a domain of its own: it alone tells whose people a name is."""
        domain = _detail(leaf).get("identity_domain")
        if not isinstance(domain, str) or not _DOMAIN.fullmatch(domain):
            message = "tells no identity_domain: whose people certificates name cannot be checked"
            self.check.fail(event(index), message)
            return
        tenant = self._names.of(index, wire.Committed.TENANT)
        for earlier in self.history.tenants:
            if earlier.domain == domain:
                message = f"registers {domain!r}, the domain of event {earlier.index}"
                self.check.fail(event(index), message)
            elif tenant is not None and earlier.tenant == tenant:
                message = f"registers tenant {tenant!r} again, after event {earlier.index}"
                self.check.fail(event(index), message)
        self.history.tenants.append(TenantRegistered(index, tenant, domain))

    def _principal(self, index: int, leaf: wire.Leaf) -> None:
        person, role = self._names.person(index), _detail(leaf).get("role")
        if person is not None and isinstance(role, str):
            self._roles[person] = role

    def _principal_certified(self, index: int, leaf: wire.Leaf) -> None:
        """A principal's certificate is of the profile that is called as its role."""
        self._issued(index, leaf)
        person = self._names.person(index)
        role = None if person is None else self._roles.get(person)
        if person is None or role is None:
            return
        for certificate in leaf.certificates:
            if certificate.profile in ROLES and certificate.profile != role:
                message = f"certifies the {role} {person[1]!r} as {certificate.profile}"
                self.check.fail(event(index), message)

    def _issued(self, index: int, leaf: wire.Leaf) -> None:
        self.check.expect(leaf.certificates, event(index), "issues nothing")
        for certificate in leaf.certificates:
            self._known_authority(index, certificate.authority)
            self._issue(index, leaf, certificate)

    def _issue(self, index: int, leaf: wire.Leaf, certificate: wire.LeafCertificate) -> None:
        self._check_form(index, leaf, certificate)
        key = certificate.authority, certificate.serial
        if certificate.sha256 is None:
            self.check.fail(event(index), f"releases serial {certificate.serial} without its hash")
            return
        self._new_serial(index, certificate)
        if self._hashes.setdefault(certificate.sha256, index) != index:
            self.check.fail(event(index), f"certificate {certificate.sha256} was issued before")
        self.history.issued.setdefault(key, Issued(index, leaf, certificate))

    def _check_form(self, index: int, leaf: wire.Leaf, certificate: wire.LeafCertificate) -> None:
        """Type of event, authority, profile and slot belong together."""
        profile = certificate.profile
        form = FORMS.get(profile)
        if form is None:
            self.check.fail(event(index), f"there is no profile {profile!r}")
            return
        if leaf.type not in form.events:
            self.check.fail(
                event(index), f"{leaf.type} issues no certificates of profile {profile!r}"
            )
        if certificate.authority not in form.authorities:
            message = f"{certificate.authority!r} issues no certificates of profile {profile!r}"
            self.check.fail(event(index), message)
        if form.slotted != (certificate.slot is not None):
            slot = "needs a slot" if form.slotted else f"fills no slot {certificate.slot!r}"
            self.check.fail(event(index), f"a certificate of profile {profile!r} {slot}")

    def _new_serial(self, index: int, certificate: wire.LeafCertificate) -> None:
        key = certificate.authority, certificate.serial
        earlier = self.history.issued.get(key)
        orphan = self.history.revoked.get(key)
        if earlier is not None:
            self.check.fail(
                event(index), f"serial {certificate.serial} was given out by event {earlier.index}"
            )
        elif orphan is not None and orphan.orphan:
            self.check.fail(
                event(index), f"serial {certificate.serial} is the orphan of event {orphan.index}"
            )

    def _orphaned(self, index: int, leaf: wire.Leaf) -> None:
        for certificate in leaf.certificates:
            self._known_authority(index, certificate.authority)
            self._new_serial(index, certificate)
            self.check.expect(
                certificate.sha256 is None, event(index), "an orphan was never released; no hash"
            )
            self.history.revoked.setdefault(
                (certificate.authority, certificate.serial),
                Revoked(index, leaf.time, _ORPHAN_REASON, orphan=True),
            )

    def _known_authority(self, index: int, name: str) -> None:
        self.check.expect(
            name in self.history.authorities, event(index), f"there is no authority {name!r} yet"
        )

    def _enrolled(self, index: int, leaf: wire.Leaf) -> None:
        self._issued(index, leaf)
        slots = [certificate.slot for certificate in leaf.certificates]
        distinct = None not in slots and len(set(slots)) == len(slots)
        self.check.expect(distinct, event(index), "not exactly one certificate for each slot")
        person, device = self._names.person(index), self._names.device(index)
        if person in self.history.revoked_people:
            at = self.history.revoked_people[person]
            self.check.fail(event(index), f"enrols user {person[1]!r}, revoked by event {at}")
        if device in self.history.revoked_devices:
            at = self.history.revoked_devices[device]
            self.check.fail(event(index), f"enrols device {device[1]!r}, revoked by event {at}")
        if person is not None and device is not None:
            owner = self._devices.setdefault(device, person)
            same = owner == person
            self.check.expect(same, event(index), f"device {device[1]!r} is of user {owner[1]!r}")

    def _revoke(self, index: int, leaf: wire.Leaf) -> None:
        for certificate in leaf.certificates:
            key = certificate.authority, certificate.serial
            issued = self.history.issued.get(key)
            if issued is None:
                self.check.fail(event(index), f"revokes {certificate.serial}, never issued")
            elif issued.certificate != certificate:
                self.check.fail(event(index), f"misdescribes {certificate.serial} that it revokes")
            if key in self.history.revoked:
                at = self.history.revoked[key].index
                self.check.fail(event(index), f"revokes {certificate.serial} again, after {at}")
            reason = _detail(leaf)["reason"]
            self.history.revoked.setdefault(key, Revoked(index, leaf.time, reason))

    def _certificate_revoked(self, index: int, leaf: wire.Leaf) -> None:
        self._revoke(index, leaf)

    def _device_revoked(self, index: int, leaf: wire.Leaf) -> None:
        self._revoke(index, leaf)
        device = self._names.device(index)
        if device is not None:
            self.history.revoked_devices.setdefault(device, index)

    def _user_revoked(self, index: int, leaf: wire.Leaf) -> None:
        self._revoke(index, leaf)
        person = self._names.person(index)
        if person is not None:
            self.history.revoked_people.setdefault(person, index)

    def finish(self) -> None:
        """After the last event: who is revoked has nothing that is good."""
        for key, issued in self.history.issued.items():
            if issued.leaf.type not in (EventType.DEVICE_ENROLLED, EventType.DEVICE_RENEWED):
                continue
            person = self._names.person(issued.index)
            device = self._names.device(issued.index)
            gone = person in self.history.revoked_people or device in self.history.revoked_devices
            if gone and key not in self.history.revoked:
                self.check.fail(
                    event(issued.index),
                    f"serial {key[1]} is still good, though its holder was revoked",
                )

    def settle(self, lost: Mapping[int, wire.Leaf]) -> None:
        """What lost events certified or revoked is in the world: nothing of it may be good."""
        for index in sorted(lost):
            leaf = lost[index]
            if leaf.type not in _CERTIFYING:
                continue
            did = "revoked" if leaf.type in _REVOKING else "given out"
            for certificate in leaf.certificates:
                if (certificate.authority, certificate.serial) not in self.history.revoked:
                    message = f"{certificate.serial} was {did} by this event, which was lost, and"
                    self.check.fail(event(index), f"{message} is not revoked")
        if lost:
            self.check.notes.append(f"{len(lost)} events of the record were lost by a later epoch")

    def _list(self, index: int, leaf: wire.Leaf) -> None:
        detail = _detail(leaf)
        issued = ListIssued(
            index,
            detail["authority"],
            detail["number"],
            detail["sha256"],
            detail["entries"],
            detail["this_update"],
            detail["next_update"],
        )
        self._known_authority(index, issued.authority)
        lists = self.history.lists.setdefault(issued.authority, [])
        if lists and issued.number <= lists[-1].number:
            message = f"CRL {issued.number} of {issued.authority} follows {lists[-1].number}"
            self.check.fail(event(index), message)
        self._number_unused(index, issued.authority, issued.number)
        lists.append(issued)

    def _list_orphaned(self, index: int, leaf: wire.Leaf) -> None:
        detail = _detail(leaf)
        authority, number = detail["authority"], detail["number"]
        issued = [item.number for item in self.history.lists.get(authority, [])]
        if number in issued:
            self.check.fail(event(index), f"calls CRL {number} of {authority} an orphan")
        self._unused_numbers.add((authority, number))

    def _number_unused(self, index: int, authority: str, number: int) -> None:
        orphan = (authority, number) in self._unused_numbers
        self.check.expect(not orphan, event(index), f"CRL {number} of {authority} was an orphan")


def _detail(leaf: wire.Leaf) -> Mapping[str, Any]:
    return leaf.detail or {}
