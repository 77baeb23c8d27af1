"""Rows that were put away come back as they were, in fewer bytes where values are close."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from collector.track.narrow import Narrow
from collector.track.visit_flows import NO_DELTAS
from collector.wire.addr import MAPPED

DTYPE = np.dtype(
    [("address", "V16"), ("up", "u8"), ("at", "i8"), ("port", "u2"), ("kind", "u1"), ("end", "?")]
)
ROWS = st.lists(
    st.tuples(
        st.binary(min_size=16, max_size=16) | st.binary(min_size=4, max_size=4).map(MAPPED.__add__),
        st.integers(0, 2**64 - 1) | st.integers(0, 300),
        st.integers(-(2**63), 2**63 - 1),
        st.integers(0, 2**16 - 1),
        st.integers(0, 255),
        st.booleans(),
    ),
    min_size=1,
    max_size=50,
)


@given(ROWS)
def test_every_value_comes_back(rows: list[tuple[bytes, int, int, int, int, bool]]) -> None:
    wide = np.array(rows, DTYPE)
    narrow = Narrow(wide)
    back = narrow.rows()
    assert back.dtype == DTYPE and len(narrow) == len(rows)
    assert back.tobytes() == wide.tobytes()
    assert narrow.nbytes <= wide.nbytes


def test_flows_of_one_network_take_half() -> None:
    rng = np.random.default_rng(5)
    size = 4_096
    deltas = np.zeros(size, NO_DELTAS.dtype)
    for name, base in (("client", 10 << 24), ("server", 0)):
        numbers = (base + rng.integers(0, 2**24, size)).astype(">u4").tobytes()
        deltas[name] = np.frombuffer(
            b"".join(MAPPED + numbers[at : at + 4] for at in range(0, 4 * size, 4)), "V16"
        )
    deltas["protocol"] = rng.choice([6, 17], size)
    deltas["client_port"] = rng.integers(1024, 65_536, size)
    deltas["server_port"] = rng.choice([80, 443, 8443], size)
    deltas["up_bytes"], deltas["down_bytes"] = rng.integers(40, 2**31, (2, size))
    deltas["seen_ns"] = 1_700_000_000 * 10**9 + rng.integers(0, 300 * 10**9, size)
    deltas["start_ns"] = deltas["seen_ns"] - rng.integers(0, 3600 * 10**9, size)
    narrow = Narrow(deltas)
    assert narrow.nbytes < deltas.nbytes * 0.6
    assert narrow.rows().tobytes() == deltas.tobytes()
