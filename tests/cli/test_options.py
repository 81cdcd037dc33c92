"""``key=value`` words become options of the right types, or one sentence."""

import pytest

from robopref.cli.options import read_options
from robopref.errors import ConfigError

KNOWN = {"to": str, "port": int, "rate": float, "dry": bool, "names": list}


def test_words_become_values_of_their_types():
    words = ["to=a=b", "port=80", "rate=0.5", "dry=True", "names=[x, y,]"]
    wanted = {"to": "a=b", "port": 80, "rate": 0.5, "dry": True, "names": ["x", "y"]}
    assert read_options("serve", words, KNOWN) == wanted


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["port"], "Options read name=value, got 'port'"),
        (["prot=1"], "Did you mean 'port'"),
        (["port=1", "port=2"], "port= is given twice"),
        (["to="], "to= needs a value"),
        (["port=1.5"], "port must be a whole number, got '1.5'"),
        (["rate=fast"], "rate must be a number, got 'fast'"),
        (["dry=yes"], "dry must be true or false, got 'yes'"),
    ],
)
def test_what_is_no_option_is_refused_with_its_name(words, sentence):
    with pytest.raises(ConfigError, match=sentence):
        read_options("serve", words, KNOWN)
