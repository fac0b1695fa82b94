"""What is printed shows no value of a container's environment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docker_rollback._inspection.redact import hide


@pytest.mark.parametrize(
    ("environment", "text", "hidden"),
    [
        (["DB_PASSWORD=abc"], "login with abc failed", "login with ${DB_PASSWORD} failed"),
        (["MODE=abc"], "mode abc", "mode abc"),
        (["MODE=abcdefgh"], "mode abcdefgh", "mode ${MODE}"),
        (["URL=redis://u:p%40ss@cache/0"], "no redis://u:p%40ss@cache/0", "no ${URL}"),
        (["URL=redis://u:p%40ss@cache/0"], "p@ss and p%40ss", "${URL} and ${URL}"),
        (["TLS_KEY=first line\nsecond line"], "read second line", "read ${TLS_KEY}"),
        (["A_TOKEN=abcd", "B_TOKEN=abcdef"], "abcdef abcd", "${B_TOKEN} ${A_TOKEN}"),
        (["EMPTY_TOKEN=", "TOKEN", "API_KEY=  "], "a  b", "a  b"),
    ],
)
def test_values_give_way_to_the_names_of_their_variables(environment: list[str], text: str, hidden: str) -> None:
    """Long values, short ones with a telling name, their lines, and passwords in addresses; the longest first."""
    assert hide(text, environment) == hidden


def test_what_an_image_sets_is_known_to_all() -> None:
    """A path that the image brings along may be read, unless the user gave the variable another value."""
    image = ["PATH=/usr/local/bin", "APP_KEY=default"]
    assert hide("/usr/local/bin default mine", [*image], known=image) == "/usr/local/bin default mine"
    assert hide("default mine", ["APP_KEY=mine"], known=image) == "default ${APP_KEY}"


@given(st.text(), st.text(min_size=3).filter(str.strip), st.text())
def test_no_secret_survives(before: str, secret: str, after: str) -> None:
    """Wherever it stands, unless it is part of what replaces it."""
    if len(secret.strip()) >= 3 and secret not in "${X_SECRET}":
        hidden = hide(before + secret + after, [f"X_SECRET={secret}"])
        assert secret not in hidden.replace("${X_SECRET}", "\0")
