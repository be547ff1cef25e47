"""Vendor profiles: what ships is whole and has its sources; what is not understood is refused."""

import contextlib
import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_drivers import vendor
from hsm_drivers.errors import (
    BadCiphertextError,
    HsmError,
    KeyNotFoundError,
    PinRefusedError,
    TokenFailureError,
    TokenUnavailableError,
    UnsupportedError,
)
from hsm_drivers.vendor import ProfileError, Remedy, load, remedy, remedy_of, shipped, standard
from policies.algorithms import Scheme, algorithm, algorithms

ALL = ("standard", *vendor.SHIPPED)
HEAD = 'name = "mine"\ntitle = "Mine"\ntested = false\n'
SPELLING = '[spelling.ecdsa]\nkey_type = 3\ngenerate = 0x1040\nuse = 0x1041\nsource = "x"\n'


def source_of(name: str) -> str:
    return (resources.files("hsm_drivers") / "data" / f"{name}.toml").read_text()


@pytest.mark.parametrize("name", ALL)
def test_shipped_profiles_load_and_are_whole(name: str) -> None:
    profile = shipped(name)
    assert profile.name == name
    assert profile.title != name
    assert set(profile.spellings) == set(standard().spellings)
    assert set(profile.remedies) >= set(standard().remedies)
    assert bool(profile.recognised) == (name != "standard")


@pytest.mark.parametrize("name", ALL)
def test_every_claim_has_a_source_of_some_length(name: str) -> None:
    document = tomllib.loads(source_of(name))
    tables = [
        *(table for table in document.values() if isinstance(table, dict)),
        *document.get("recognised", []),
        *document.get("quirk", []),
    ]
    claims = [one for table in tables for one in (table, *table.values()) if isinstance(one, dict)]
    sources = [one["source"] for one in claims if "source" in one]
    assert len(sources) >= len([one for one in claims if not all_tables(one)])
    assert all(len(source.split()) >= 1 and len(source) >= 8 for source in sources)
    if shipped(name).tested:
        assert any("measured" in source for source in sources)


def all_tables(table: dict[str, object]) -> bool:
    return all(isinstance(value, dict) for value in table.values())


def test_untested_profiles_cite_their_makers() -> None:
    for name in ("thales-luna", "entrust-nshield"):
        profile = shipped(name)
        assert not profile.tested
        cited = [profile.concurrency.source, *(one.source for one in profile.quirks)]
        assert all(re.search("Thales|Luna|Entrust|nShield", source) for source in cited)


def test_tested_profiles_are_those_the_tests_run_on() -> None:
    assert {name for name in ALL if shipped(name).tested} >= {"softhsm2", "nss-softoken"}


def test_every_scheme_with_keys_is_spelled() -> None:
    unspelled = {row.scheme for row in algorithms() if not vendor.spelling_of(standard(), row)}
    assert unspelled == {Scheme.COMPOSITE_KEM, Scheme.SHA2, Scheme.SHA3, Scheme.AES_KW}


def test_kwp_has_the_number_of_its_token() -> None:
    row = algorithm("AES-256-KWP")
    numbers = {name: vendor.spelling_of(shipped(name), row) for name in ALL}
    used = {name: spelling.use for name, spelling in numbers.items() if spelling}
    assert used["softhsm2"] == 0x210A
    assert used["nss-softoken"] == used["standard"] == 0x210B


def test_tokens_are_recognised_by_what_they_say() -> None:
    said = {
        ("SoftHSM project", "SoftHSM v2", "Implementation of PKCS11"): "softhsm2",
        ("Mozilla Foundation", "NSS 3", "NSS Internal Crypto Services"): "nss-softoken",
        ("IBM", "Soft", "openCryptoki"): "opencryptoki",
        ("SafeNet", "LunaSA 7.8.4", "Chrystoki"): "thales-luna",
        ("Somebody", "Else", "library"): "standard",
        ("", "", ""): "standard",
    }
    for words, name in said.items():
        assert vendor.recognised(*words).name == name, words


def test_the_table_of_remedies_is_one_and_profiles_change_it() -> None:
    assert remedy(standard(), "CKR_DEVICE_ERROR") is Remedy.REOPEN
    assert remedy(standard(), "CKR_USER_NOT_LOGGED_IN") is Remedy.LOG_IN
    assert remedy(standard(), "CKR_PIN_INCORRECT") is Remedy.QUARANTINE
    assert remedy(standard(), "CKR_ENCRYPTED_DATA_INVALID") is Remedy.NONE
    assert remedy(standard(), "0x80000001") is Remedy.RETRY
    changes = '[remedies]\nsource = "x"\nreopen = ["0x80000001"]\nretry = ["CKR_DEVICE_ERROR"]\n'
    own = load((HEAD + changes).encode())
    assert remedy(own, "0x80000001") is Remedy.REOPEN
    assert remedy(own, "CKR_DEVICE_ERROR") is Remedy.RETRY
    assert remedy(own, "CKR_PIN_INCORRECT") is Remedy.QUARANTINE
    assert remedy(standard(), "CKR_DEVICE_ERROR") is Remedy.REOPEN


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TokenFailureError("token 'a': it failed [CKR_GENERAL_ERROR]"), Remedy.REOPEN),
        (TokenFailureError("token 'a': full [CKR_DEVICE_MEMORY]"), Remedy.NONE),
        (TokenFailureError("token 'a': what [0x80001234]"), Remedy.RETRY),
        (TokenFailureError("token 'a': no code"), Remedy.RETRY),
        (TokenUnavailableError("token 'a': gone"), Remedy.REOPEN),
        (TokenUnavailableError("token 'a': no session [CKR_SESSION_COUNT]"), Remedy.RETRY),
        (PinRefusedError("token 'a': wrong [CKR_PIN_INCORRECT]"), Remedy.QUARANTINE),
        (PinRefusedError("token 'a': wrong"), Remedy.QUARANTINE),
        (BadCiphertextError("token 'a': not of the key [CKR_GENERAL_ERROR]"), Remedy.NONE),
        (UnsupportedError("token 'a': lacks it"), Remedy.NONE),
        (KeyNotFoundError("token 'a': no such key"), Remedy.NONE),
        (TokenFailureError("[CKR_DEVICE_ERROR] stands elsewhere"), Remedy.RETRY),
    ],
)
def test_errors_are_classified_by_code_else_by_kind(error: HsmError, expected: Remedy) -> None:
    assert remedy_of(standard(), error) is expected


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + SPELLING)
    profile = vendor.called(str(path))
    assert (profile.name, profile.tested) == ("mine", False)
    assert profile.spellings["eddsa"] == standard().spellings["eddsa"]
    with pytest.raises(ProfileError, match=r"missing.toml: No such file"):
        vendor.called(str(tmp_path / "missing.toml"))
    with pytest.raises(ProfileError, match=r"no profile is called 'mine'.*softhsm2"):
        vendor.called("mine")
    assert vendor.called("standard") is standard()


def test_the_example_of_the_document_is_a_profile() -> None:
    document = Path(__file__).parents[2] / "docs" / "hsm" / "profiles.md"
    text = document.read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    profile = load(example.encode())
    assert not profile.tested
    assert remedy(profile, "0x80000201") is Remedy.REOPEN
    assert all(f"`{name}`" in text for name in ALL)


def _changed(old: str, new: str, text: str = HEAD + SPELLING) -> str:
    assert old in text
    return text.replace(old, new)


BAD = {
    "not TOML": ("name =", "not TOML"),
    "no name": (_changed('name = "mine"\n', ""), "name is missing"),
    "a bad name": (_changed('"mine"', '"Mine!"'), "name 'Mine!'"),
    "no title": (_changed('title = "Mine"\n', ""), "title is missing"),
    "an empty title": (_changed('"Mine"', '" "'), "title is empty"),
    "tested by text": (_changed("tested = false", 'tested = "no"'), "tested is not of kind bool"),
    "an unknown key": (_changed("tested", "hungry = 1\ntested"), "unknown 'hungry'"),
    "an unknown table": (HEAD + "[slots]\nx = 1\n", "unknown 'slots'"),
    "no source": (_changed('source = "x"\n', ""), "spelling ecdsa: source is missing"),
    "an empty source": (_changed('source = "x"', 'source = ""'), "source is empty"),
    "an unknown scheme": (_changed("ecdsa", "rot13"), "'rot13' is none of"),
    "a mechanism too large": (_changed("0x1041", "0x1_0000_0000"), "use is not from 0"),
    "a mechanism below zero": (_changed("0x1041", "-1"), "use is not from 0"),
    "a boolean for a number": (_changed("0x1041", "true"), "use is not of kind int"),
    "an unknown key of a spelling": (_changed("use", "abuse = 1\nuse"), "unknown 'abuse'"),
    "an unknown form": (HEAD + SPELLING + 'point = "oval"\n', "point is 'oval', none of"),
    "a code that is none": (HEAD + SPELLING + 'refused = ["GENERAL"]\n', "refused has 'GENERAL'"),
    "an unknown code": (HEAD + SPELLING + 'refused = ["CKR_WHAT"]\n', "has no CKR_WHAT"),
    "remedies without source": (HEAD + '[remedies]\nretry = ["0x1"]\n', "source is missing"),
    "a code under two remedies": (
        HEAD + '[remedies]\nsource = "x"\nretry = ["0x1"]\nreopen = ["0x1"]\n',
        "0x1 stands under retry and reopen",
    ),
    "an unknown remedy": (
        HEAD + '[remedies]\nsource = "x"\npray = ["0x1"]\n',
        "unknown 'pray'",
    ),
    "recognising everything": (HEAD + '[[recognised]]\nsource = "x"\n', "fits every token"),
    "recognised is no list": (HEAD + "recognised = 1\n", "recognised is not of kind list"),
    "a quirk without words": (HEAD + '[[quirk]]\nsource = "x"\n', "quirk 1: what is missing"),
    "half a concurrency": (HEAD + '[concurrency]\nsource = "x"\n', "os_locking is missing"),
    "too large": (HEAD + "#" * vendor.MAX_SOURCE, "larger than"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_profiles_are_refused_with_the_place(what: str) -> None:
    text, said = BAD[what]
    with pytest.raises(ProfileError, match=re.escape(said)):
        load(text.encode())


def test_quirks_have_no_other_keys() -> None:
    with pytest.raises(ProfileError, match="quirk 1: unknown 'why'"):
        load((HEAD + '[[quirk]]\nwhat = "x"\nsource = "x"\nwhy = "x"\n').encode())


@given(st.binary(max_size=300))
def test_any_bytes_are_a_profile_or_an_error(source: bytes) -> None:
    with contextlib.suppress(ProfileError):
        load(source)


@given(st.data())
def test_a_shipped_profile_with_one_value_changed_is_a_profile_or_an_error(
    data: st.DataObject,
) -> None:
    lines = source_of("nss-softoken").splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = data.draw(st.sampled_from(["", "x = 1", "source = 1", "[x]", "[[quirk]]", "= ="]))
    with contextlib.suppress(ProfileError):
        load("\n".join(lines).encode())
