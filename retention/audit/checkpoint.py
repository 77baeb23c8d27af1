"""Signs and reads checkpoints: C2SP signed-note, tlog-checkpoint and tlog-cosignature, Ed25519."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LOG: Final = 0x01
"""Signature type of a log: Ed25519 over the text (signed-note)."""
WITNESS: Final = 0x04
"""Signature type of a witness: Ed25519 over time and text (tlog-cosignature v1)."""
MAX_NOTE: Final = 16_384
"""Bytes; three lines and sixteen signatures, which every reader must accept, need 3,000."""
MAX_SIGNATURES: Final = 16

_NAME: Final = re.compile(r"[\x21-\x2a\x2c-\x7e]{1,200}")  # printable ASCII, no space, no plus
_TEXT: Final = re.compile(r"([^\n]+)\n(0|[1-9][0-9]{0,15})\n([^\n]{44})\n")
_SECRET: Final = "PRIVATE+KEY+"


class NoteError(ValueError):
    """A note, checkpoint or key that is not well formed or not rightly signed."""


@dataclass(frozen=True, slots=True)
class Key:
    """A verifier key: a name, a signature type and 32 bytes of Ed25519 public key."""

    name: str
    kind: int
    public: bytes

    @property
    def id(self) -> bytes:
        """Four bytes that tell keys of one name apart (signed-note, "Signatures")."""
        material = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return hashlib.sha256(material).digest()[:4]

    def __str__(self) -> str:
        """Text form: name+id+base64(type, public key)."""
        return f"{self.name}+{self.id.hex()}+{to_base64(bytes([self.kind]) + self.public)}"

    def verify(self, data: bytes, signature: bytes) -> None:
        """Raise NoteError unless the signature is this key's over these bytes."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, data)
        except InvalidSignature as error:
            raise NoteError(f"a wrong signature under the name {self.name}") from error

    @classmethod
    def parse(cls, text: str) -> Key:
        """Read the text form; raises NoteError."""
        parts = text.strip().split("+", 2)  # base64 has plus signs too
        if len(parts) != 3 or not _NAME.fullmatch(parts[0]):
            raise NoteError("not a verifier key: name+id+base64 expected")
        data = from_base64(parts[2])
        if len(data) != 33 or data[0] not in (LOG, WITNESS):
            raise NoteError("not an Ed25519 key of a log or a witness")
        key = cls(parts[0], data[0], data[1:])
        if key.id.hex() != parts[1]:
            raise NoteError("the key's id does not match the key")
        return key


class Signer:
    """A name and a private key that sign as `kind`."""

    def __init__(self, name: str, kind: int, private: Ed25519PrivateKey) -> None:
        if not _NAME.fullmatch(name):
            raise NoteError("a key's name is printable ASCII without spaces and plus signs")
        self._private = private
        self.key = Key(name, kind, private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, name: str, kind: int = LOG) -> Signer:
        """Make a new key."""
        return cls(name, kind, Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Read what `secret` gave; raises NoteError, whose message holds no part of it."""
        parts = text.strip().removeprefix(_SECRET).split("+", 2)
        if not text.startswith(_SECRET) or len(parts) != 3:
            raise NoteError("not a signing key")
        data = from_base64(parts[2])
        if len(data) != 33:
            raise NoteError("not an Ed25519 signing key")
        signer = cls(parts[0], data[0], Ed25519PrivateKey.from_private_bytes(data[1:]))
        if signer.key.id.hex() != parts[1]:
            raise NoteError("the signing key's id does not match the key")
        return signer

    def secret(self) -> str:
        """Text form of the private key, for a file that only its owner can read."""
        data = bytes([self.key.kind]) + self._private.private_bytes_raw()
        return f"{_SECRET}{self.key.name}+{self.key.id.hex()}+{to_base64(data)}\n"

    def sign(self, text: str, seconds: int = 0) -> str:
        """Give the signature line for a note's text; a witness states the time in seconds."""
        stamp = seconds.to_bytes(8, "big") if self.key.kind == WITNESS else b""
        signature = self.sign_bytes(_message(self.key.kind, text, seconds))
        return str(Line(self.key.name, self.key.id, stamp + signature))

    def sign_bytes(self, data: bytes) -> bytes:
        """Give the bare signature over bytes that can be no note: canonical JSON."""
        return self._private.sign(data)


@dataclass(frozen=True, slots=True)
class Line:
    """One signature line."""

    name: str
    id: bytes
    signature: bytes

    def by(self, key: Key) -> bool:
        """Whether the line claims to be by this key; says nothing of the signature."""
        return (self.name, self.id) == (key.name, key.id)

    def __str__(self) -> str:
        """The line, with its end."""
        return f"\u2014 {self.name} {to_base64(self.id + self.signature)}\n"

    @property
    def seconds(self) -> int:
        """The time a witness states, seconds since 1970."""
        return int.from_bytes(self.signature[:8], "big")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's name, size and root as one signed note states them."""

    origin: str
    size: int
    root: bytes
    text: str
    lines: tuple[Line, ...]

    @classmethod
    def parse(cls, data: bytes) -> Checkpoint:
        """Read a note, every byte of it; raises NoteError. Signatures are not checked."""
        if len(data) > MAX_NOTE:
            raise NoteError(f"a note of more than {MAX_NOTE} bytes")
        try:
            note = data.decode()
        except UnicodeDecodeError as error:
            raise NoteError("a note that is not UTF-8") from error
        text, blank, signatures = note.rpartition("\n\n")
        match = _TEXT.fullmatch(text + "\n")
        if not blank or not match or not _NAME.fullmatch(match[1]):
            raise NoteError("not a checkpoint: origin, size and root expected")
        if not signatures.endswith("\n"):
            raise NoteError("a note that does not end with a signature line")
        lines = tuple(_line(line) for line in signatures[:-1].split("\n"))
        if len(lines) > MAX_SIGNATURES:
            raise NoteError(f"more than {MAX_SIGNATURES} signatures")
        return cls(match[1], int(match[2]), from_base64(match[3]), text + "\n", lines)

    def signed_by(self, key: Key) -> Line:
        """Give the line by which `key` signed; raises NoteError if none does, or one wrongly."""
        found = [line for line in self.lines if line.by(key)]
        if not found:
            raise NoteError(f"not signed by {key.name}")
        for line in found:
            stamp = 8 if key.kind == WITNESS else 0
            key.verify(_message(key.kind, self.text, line.seconds), line.signature[stamp:])
        return found[0]

    def unknown(self, keys: list[Key]) -> list[str]:
        """Names on signature lines that none of `keys` accounts for."""
        return [line.name for line in self.lines if not any(line.by(key) for key in keys)]


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """The text that is signed."""
    return f"{origin}\n{size}\n{to_base64(root)}\n"


def proof_text(index: int, path: list[bytes], note: str) -> str:
    """A proof that a leaf is in the log (C2SP tlog-proof): index, audit path, checkpoint."""
    hashes = "".join(f"{to_base64(step)}\n" for step in path)
    return f"c2sp.org/tlog-proof@v1\nindex {index}\n{hashes}\n{note}"


def parse_proof(text: str) -> tuple[int, list[bytes], Checkpoint]:
    """Read `proof_text`; raises NoteError."""
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    number = lines[1].removeprefix("index ") if len(lines) > 1 else ""
    if lines[0] != "c2sp.org/tlog-proof@v1" or not re.fullmatch(r"0|[1-9][0-9]{0,15}", number):
        raise NoteError("not a proof of inclusion")
    return int(number), [from_base64(line) for line in lines[2:]], Checkpoint.parse(note.encode())


def _message(kind: int, text: str, seconds: int) -> bytes:
    head = f"cosignature/v1\ntime {seconds}\n" if kind == WITNESS else ""
    return (head + text).encode()


def _line(text: str) -> Line:
    parts = text.split(" ")
    if len(parts) != 3 or parts[0] != "\u2014" or not _NAME.fullmatch(parts[1]):
        raise NoteError("not a signature line")
    data = from_base64(parts[2])
    if len(data) < 5:
        raise NoteError("a signature line without a signature")
    return Line(parts[1], data[:4], data[4:])


def to_base64(data: bytes) -> str:
    """Text of bytes, as notes have it."""
    return base64.b64encode(data).decode()


def from_base64(text: str) -> bytes:
    """Strict base64: bits that a decoder would drop must be zero, so every byte counts."""
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise NoteError("not base64") from error
    if to_base64(data) != text:
        raise NoteError("base64 that is not in its one form")
    return data
