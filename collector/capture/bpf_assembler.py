"""Instructions of classic BPF, with labels for jumps, into the bytes that the kernel takes."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS of linux/bpf_common.h."""

_INSTRUCTION: Final = struct.Struct("=HBBI")
"""struct sock_filter of linux/filter.h: code, jt, jf, k in the machine's byte order."""

# Codes as in linux/bpf_common.h; "x" loads are relative to the index register.
LDB_X: Final = 0x50
LDH_ABS: Final = 0x28
LDH_X: Final = 0x48
LDW_X: Final = 0x40
LD_MEM: Final = 0x60
LDX_IMM: Final = 0x01
LDX_MEM: Final = 0x61
ST: Final = 0x02
STX: Final = 0x03
ADD_K: Final = 0x04
ADD_X: Final = 0x0C
SUB_X: Final = 0x1C
AND_K: Final = 0x54
LSH_K: Final = 0x64
RSH_K: Final = 0x74
JA: Final = 0x05
JEQ: Final = 0x15
JGT: Final = 0x25
JGT_X: Final = 0x2D
JGE: Final = 0x35
JSET: Final = 0x45
RET: Final = 0x06
TAX: Final = 0x07
TXA: Final = 0x87


class BpfError(ValueError):
    """The program cannot be written: a label is missing, too far, or it is too long."""


@dataclass(slots=True)
class Assembler:
    """Collects instructions whose jumps name labels, then writes them as the kernel takes them."""

    _lines: list[tuple[int, int, str, str, str]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)

    def label(self, name: str) -> None:
        """Names the next instruction."""
        if name in self._labels:
            raise BpfError(f"label {name} twice")
        self._labels[name] = len(self._lines)

    def op(self, code: int, k: int = 0) -> None:
        """An instruction without a jump."""
        self._lines.append((code, k, "", "", ""))

    def go(self, target: str) -> None:
        """An unconditional jump, however far."""
        self._lines.append((JA, 0, "", "", target))

    def when(self, code: int, k: int, yes: str = "", no: str = "") -> None:
        """A conditional jump; an empty label falls through to the next instruction."""
        self._lines.append((code, k, yes, no, ""))

    def any_of(self, values: tuple[int, ...], yes: str) -> None:
        """Jumps to `yes`, however far, where the accumulator is one of the values."""
        if not values:
            return
        here = f"any.{len(self._lines)}"
        for value in values:
            self.when(JEQ, value, f"{here}.yes")
        self.go(f"{here}.no")
        self.label(f"{here}.yes")
        self.go(yes)
        self.label(f"{here}.no")

    def assemble(self) -> bytes:
        """The program, 8 bytes an instruction; raises BpfError."""
        if len(self._lines) > MAX_INSTRUCTIONS:
            raise BpfError(f"{len(self._lines)} instructions, the kernel takes {MAX_INSTRUCTIONS}")
        return b"".join(
            _INSTRUCTION.pack(
                code,
                self._distance(at, yes, 255),
                self._distance(at, no, 255),
                self._distance(at, target, MAX_INSTRUCTIONS) if target else k,
            )
            for at, (code, k, yes, no, target) in enumerate(self._lines)
        )

    def _distance(self, at: int, label: str, limit: int) -> int:
        """Instructions between a jump and its target; the kernel takes forward jumps only."""
        if not label:
            return 0
        if label not in self._labels:
            raise BpfError(f"no label {label}")
        distance = self._labels[label] - at - 1
        if not 0 <= distance <= limit:
            raise BpfError(f"label {label} is {distance} instructions away")
        return distance
