"""Passwords in the address of a label store: hidden wherever the address is shown."""

from pathlib import Path

import pytest

from robopref.data.label_store import LabelStore
from robopref.errors import ConfigError, hide_passwords


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'labels.sqlite'}"


def test_a_password_is_not_shown(url):
    assert hide_passwords("postgresql://me:hunter2@team.example/db") == "postgresql://me:***@team.example/db"
    assert hide_passwords(url) == url
    assert hide_passwords("sqlite:///C:/a b/labels.sqlite") == "sqlite:///C:/a b/labels.sqlite"
    for wrong in ("postgre://me:hunter2@team.example/db", "me:hunter2@team.example/db"):
        with pytest.raises(ConfigError, match=r"me:\*\*\*@team") as refused:
            LabelStore(wrong)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:hunter2@team.example/db",
        "postgresql://:hunter2@team.example/db",
        "postgresql://me:p@ss/hunter2@team.example/db",
        "postgresql://me@team.example/db?sslmode=require&password=hunter2",
        "postgresql://team.example/db?sslpassword=hunter2&sslmode=require",
        "robopref label data=x labels=postgresql://me:hunter2@team.example/db",
        "postgresql://me@server:hunter2@team.example/db",
        "postgresql://me:my hunter2@team.example/db",
        "postgresql://my own:p@ss hunter2@team.example/db",
        "labels='postgresql://me:my hunter2@team.example/db' data=x",
        "postgresql://team.example/db?password=a)hunter2&sslmode=require",
        "postgresql://team.example/db?password=a'hunter2",
    ],
)
def test_a_password_is_hidden_wherever_it_stands_in_a_url(text):
    shown = hide_passwords(text)
    assert "hunter2" not in shown
    assert "***" in shown
    assert "team.example/db" in shown


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://team.example:5432/db holds no labels of me@team.example",
        "Label at http://127.0.0.1:8000/ or ask me@team.example",
        "robopref label-scripted: write to me@team.example",
    ],
)
def test_a_port_and_a_mail_address_are_no_password(text):
    assert hide_passwords(text) == text


def test_a_password_in_a_query_is_hidden_whole_where_it_holds_an_at():
    shown = hide_passwords("postgresql://me@team.example:5432/db?password=p@hunter2")
    assert shown == "postgresql://me@team.example:5432/db?password=***"
