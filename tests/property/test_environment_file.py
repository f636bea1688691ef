"""The file of a service's variables: what is written is read again, and any text can be read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cgpu.adapters.host.unit import VARIABLES, environment_text, is_ours, parse_environment

VALUES = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="/._-:@=+,"), min_size=1)


@given(st.dictionaries(st.sampled_from(VARIABLES), VALUES))
def test_what_is_written_is_read_again(variables: dict[str, str]):
    text = environment_text(variables)
    assert is_ours(text)
    assert parse_environment(text) == variables


@given(st.text())
def test_any_text_can_be_read(text: str):
    parse_environment(text)


@given(st.sampled_from(["'", '"']), VALUES)
def test_quotes_around_a_value_are_not_part_of_it(quote: str, value: str):
    assert parse_environment(f"# a comment\n  A = {quote}{value}{quote}\n") == {"A": value}
