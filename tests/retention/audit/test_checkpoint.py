"""Checkpoints: the specification's own signed example, and nothing but the one spelling."""

from __future__ import annotations

import pytest

from retention.audit.checkpoint import (
    LOG,
    WITNESS,
    Checkpoint,
    Key,
    NoteError,
    Signer,
    checkpoint_text,
)
from tests.retention.audit.story import SIGNER, WITNESS_SIGNER

# C2SP tlog-cosignature's example.
EXAMPLE = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

\u2014 example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501
# The key of the Go checksum database, as published with it.
SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"


def note() -> str:
    text = checkpoint_text(SIGNER.key.name, 7, bytes(range(32)))
    return f"{text}\n{SIGNER.sign(text)}{WITNESS_SIGNER.sign(text, 1_700_000_000)}"


def test_the_specifications_example_is_read() -> None:
    found = Checkpoint.parse(EXAMPLE.encode())
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert [line.name for line in found.lines] == [found.origin, "witness.example.com/w1"]
    assert found.lines[1].seconds == 1_679_315_147
    assert found.text + "\n" + "".join(map(str, found.lines)) == EXAMPLE


def test_a_published_key_has_the_id_that_it_states() -> None:
    key = Key.parse(SUMDB)
    assert (key.name, key.kind, str(key)) == ("sum.golang.org", LOG, SUMDB)
    with pytest.raises(NoteError, match="id"):
        Key.parse(SUMDB.replace("033de0ae", "033de0af"))


def test_both_signatures_verify_and_give_time() -> None:
    found = Checkpoint.parse(note().encode())
    found.signed_by(SIGNER.key)
    assert found.signed_by(WITNESS_SIGNER.key).seconds == 1_700_000_000
    assert found.unknown([SIGNER.key]) == [WITNESS_SIGNER.key.name]
    assert SIGNER.key.id != Key(SIGNER.key.name, WITNESS, SIGNER.key.public).id


def test_a_key_survives_its_text_form() -> None:
    again = Signer.parse(WITNESS_SIGNER.secret())
    assert again.key == WITNESS_SIGNER.key == Key.parse(str(again.key))
    with pytest.raises(NoteError):
        Signer.parse("PRIVATE+KEY+x")


def test_every_flipped_bit_of_a_note_is_found() -> None:
    data = note().encode()
    keys = [SIGNER.key, WITNESS_SIGNER.key]
    for at in range(len(data)):
        for bit in range(8):
            spoilt = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises(NoteError):
                found = Checkpoint.parse(spoilt)
                for key in keys:
                    found.signed_by(key)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("\n7\n", "\n07\n"),
        lambda text: text.replace("\n7\n", "\n7\nextension\n"),
        lambda text: text + "\n",
        lambda text: text[:-1],
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\u2014 x y\n",
        lambda text: text + "x" * 20_000,
        lambda text: text.replace("=\n\n", "\n\n"),
    ],
)
def test_other_spellings_are_refused(spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(NoteError):
        Checkpoint.parse(spoil(note()).encode())
