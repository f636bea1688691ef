"""Whatever bytes come, in whatever pieces: nothing is raised, and what is found is the same."""

from __future__ import annotations

import textwrap
from functools import cache
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cgpu.compat.dataset import shipped
from cgpu.doctor.explain import Confidence, Finding, Recogniser, recognise
from cgpu.doctor.failures import Catalogue, catalogue
from cgpu.doctor.log_stream import OVERLAP_BYTES, PIECE_BYTES
from cgpu.doctor.log_text import clean_line, place_of, squeeze, squeeze_bytes
from tests.unit.doctor.messages import DOCUMENTED, HUNG, NOISE, OTHER_LINES


@cache
def known() -> Catalogue:
    return catalogue(shipped())


@cache
def words() -> list[bytes]:
    """What logs of failures are made of."""
    messages = [message for _, message in DOCUMENTED]
    return [
        *(anchor for anchor in known().anchors),
        *(noise(message).encode("utf-8", "surrogatepass") for noise in NOISE.values() for message in messages),
        *(line.encode() for line in [*OTHER_LINES, *HUNG.splitlines()]),
        b"CreateContainerError: context deadline exceeded",
        b"cgpu: memory is refused: /x is not a file of cgpu [CGPU-SHIM-FOREIGN]",
        b"Kernel panic - not syncing",
        b"---[ end trace",
    ]


LINES = st.deferred(lambda: st.sampled_from(words()) | st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
LOGS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"", b" ", b"\n\n   "])), max_size=30).map(
    lambda pairs: b"".join(part for pair in pairs for part in pair)
)


def in_pieces(log: bytes, cuts: list[int]) -> tuple[tuple[Finding, ...], list[str]]:
    recogniser = Recogniser(known())
    places = [0, *sorted(cut % (len(log) + 1) for cut in cuts), len(log)]
    told = [finding for begin, end in pairwise(places) for finding in recogniser.feed(log[begin:end])]
    told += recogniser.finish()
    return recogniser.findings, [finding.id for finding in told]


@given(st.binary(max_size=400))
def test_any_bytes_are_read(log: bytes) -> None:
    recognise(log, known())


@given(LOGS, st.lists(st.integers(0, 10**6), max_size=12))
def test_what_is_found_does_not_depend_on_the_pieces(log: bytes, cuts: list[int]) -> None:
    findings, told = in_pieces(log, cuts)
    whole = recognise(log, known())
    assert findings == whole
    assert set(told) == {finding.id for finding in whole}


@given(LOGS)
def test_nor_does_it_when_every_byte_comes_alone(log: bytes) -> None:
    assert in_pieces(log, list(range(len(log))))[0] == recognise(log, known())


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(DOCUMENTED),
    st.integers(0, 3 * PIECE_BYTES),
    st.integers(0, PIECE_BYTES + 10),
    st.lists(st.integers(0, 10**6), max_size=5),
)
@example(DOCUMENTED[0], PIECE_BYTES - 10, 0, [PIECE_BYTES, PIECE_BYTES + 1])
@example(DOCUMENTED[0], PIECE_BYTES - OVERLAP_BYTES, PIECE_BYTES, [PIECE_BYTES])
@example(DOCUMENTED[3], PIECE_BYTES - len(DOCUMENTED[3][1]), 0, [])
def test_a_message_anywhere_in_a_very_long_line_is_found_once(
    documented: tuple[str, str], before: int, after: int, cuts: list[int]
) -> None:
    failure, message = documented
    log = b"first\n" + b"x" * before + b" " + message.encode() + b" " + b"y" * after + b"\nlast\n"
    findings, _ = in_pieces(log, cuts)
    assert [(finding.id, finding.line, finding.count) for finding in findings] == [(failure, 2, 1)]
    assert findings == recognise(log, known())


@given(st.sampled_from(DOCUMENTED), st.integers(38, 200), st.integers(0, 20), st.booleans())
def test_a_message_folded_at_any_width_is_certain(
    documented: tuple[str, str], width: int, indent: int, within_words: bool
) -> None:
    failure, message = documented
    if within_words:
        lines = [message[start : start + width] for start in range(0, len(message), width)]
    else:
        lines = textwrap.wrap(message, width, break_on_hyphens=False)
    (finding,) = recognise("other\n" + ("\n" + " " * indent).join(lines) + "\nother", known())
    assert (finding.id, finding.confidence) == (failure, Confidence.CERTAIN)


@given(st.text(max_size=200), st.text(max_size=200))
def test_squeezing_text_joins_lines_up_to_quotes(first: str, second: str) -> None:
    assert squeeze(first + "\n" + second).replace("'", "") == (squeeze(first) + squeeze(second)).replace("'", "")


@given(st.lists(LINES, max_size=6))
def test_squeezed_bytes_are_those_of_the_lines_joined(lines: list[bytes]) -> None:
    lines = [part for line in lines for part in line.split(b"\n")]
    assert squeeze_bytes(b"\n".join(lines)) == b"".join(map(squeeze_bytes, lines))


@given(st.text(alphabet="aB '\"\\\n\u2019\u00a0\u0130x", max_size=30))
def test_a_place_in_a_text_is_that_of_its_squeezed_character(text: str) -> None:
    squeezed = squeeze(text)
    for offset in range(len(squeezed)):
        place = place_of(text, offset)
        assert squeezed[offset] in squeeze(text[place])
        assert len(squeeze(text[:place])) <= offset


@given(LINES)
def test_a_clean_line_is_printable_as_text(line: bytes) -> None:
    clean = clean_line(line.replace(b"\n", b" "))
    assert clean.squeezed == squeeze(clean.text)
    assert clean.text == clean.text.rstrip()


@given(LOGS)
def test_findings_are_well_formed(log: bytes) -> None:
    lines = log.count(b"\n") + 1
    for finding in recognise(log, known()):
        assert 1 <= finding.line <= lines
        assert 1 <= finding.count <= lines
        assert finding.text.replace("\n", "").isprintable()
        assert finding.failure is known().failures[finding.id]
