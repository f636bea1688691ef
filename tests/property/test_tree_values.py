"""Any path, any bytes, any tenants: the tree answers or says no; it never fails in another way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cgpu.adapters.tree import TEXT_BYTES_MAX, Change, File, Folder, Line, Node, entry, numbered
from tests.unit.adapters.tree_documents import gpu, tenant

NAMES = st.sampled_from(["a", "b", "policy", "free_weight", "oci-a", "cdi", "x~", "y" * 300])
TENANTS = st.lists(
    st.builds(
        tenant,
        NAMES.filter(lambda name: len(name) < 64 and "~" not in name),
        st.one_of(st.just(""), NAMES.filter(lambda name: "~" not in name)),
        st.sampled_from([("GPU-0",), ("GPU-1",), ("GPU-0", "GPU-1")]),
    ),
    max_size=8,
    unique_by=lambda row: row["id"],
)


@given(TENANTS, st.text())
def test_any_path_is_answered(tenants: list[dict[str, object]], path: str):
    node = Node([gpu(0), gpu(1)], tenants, numbered({}, tenants))
    assert isinstance(entry("/" + path, node), Folder | File | None)


@given(TENANTS)
def test_every_name_that_is_listed_is_there_and_names_are_different(tenants: list[dict[str, object]]):
    node = Node([gpu(0), gpu(1)], tenants, numbered({}, tenants))
    pending = ["/"]
    while pending:
        path = pending.pop()
        found = entry(path, node)
        assert found is not None
        if isinstance(found, Folder):
            assert len(set(found.names)) == len(found.names)
            pending += [f"{path.rstrip('/')}/{name}" for name in found.names]
        else:
            assert found.text.endswith("\n")


@given(st.lists(TENANTS, max_size=6))
def test_numbers_are_stable_small_and_different(looks: list[list[dict[str, object]]]):
    numbers: dict[tuple[str, str], int] = {}
    most = 0
    for tenants in looks:
        most = max(most, len(tenants))
        new = numbered(numbers, tenants)
        assert all(new[key] == number for key, number in numbers.items() if key in new)
        for uuid in ("GPU-0", "GPU-1"):
            mine = [number for (other, _), number in new.items() if other == uuid]
            assert len(set(mine)) == len(mine)
            assert all(0 <= number < most for number in mine)
        numbers = new


@given(st.integers(0, 10**18 - 1), st.booleans())
def test_a_number_is_sent_as_that_number(number: int, newline: bool):
    value = Line().written((str(number) + newline * "\n").encode(), 0)
    assert value is not None
    assert Change("", "GPU-0", "policy").body(value) == {"policy": number}


@given(st.lists(st.binary(max_size=TEXT_BYTES_MAX // 4), max_size=4))
def test_any_bytes_become_a_number_or_the_text_itself(pieces: list[bytes]):
    line, offset = Line(), 0
    for piece in pieces:
        value = line.written(piece, offset)
        offset += len(piece)
        if value is not None:
            sent = Change("", "GPU-0", "policy").body(value)["policy"]
            assert sent == value or (isinstance(sent, int) and value.isascii() and sent == int(value))
