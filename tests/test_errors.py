"""Every message that can be raised, as one set: one line in one tone, and each cure can be typed as it stands."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main

import robustkit
from robustkit.cli.main import app
from robustkit.extras import EXTRAS

ROOT = Path(robustkit.__file__).parent
PLUGIN = ROOT.parent / "plugins" / "robustkit-ct-bodysite" / "robustkit_ct_bodysite"
FOR_USERS = {"UsageError", "DataError", "ModelError", "RobustkitError", "error", "kind"}
NOT_OURS = {"--upgrade"}
"""Options of pip."""
UNHELPFUL = re.compile(
    r"\b(please|invalid|illegal|bad|oops|sorry|failed to|unable to|error:)\b|!|(?<!\.)\.$", re.IGNORECASE
)
CURE = re.compile(r"[;:,]|\b(must|wants?|needs?)\b|\S\{\}$")
"""What a message goes on with after it has said what is wrong: by itself, or with a cure that several share."""


class Message(NamedTuple):
    where: str
    kind: str
    text: str


def text_of(node):
    """Return a message as written, its values as {}; "" for one that is put together elsewhere."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


def messages():
    found = []
    for path in sorted([*ROOT.rglob("*.py"), *PLUGIN.rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                text = text_of(node.args[0])
                if node.func.id in FOR_USERS and text:
                    found.append(Message(f"{path.name}:{node.lineno}", node.func.id, text))
    return found


MESSAGES = messages()


def commands(command, path=()):
    """Yield (words, command) of every command and group."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*path, name))


KNOWN = dict(commands(typer.main.get_command(app)))
FLAGS = {flag for command in KNOWN.values() for parameter in command.params for flag in parameter.opts}


def test_reader_of_messages_sees_them():
    assert len(MESSAGES) > 300
    assert any(m.text.startswith("unknown {} {}; there is: {}") for m in MESSAGES)


def test_every_option_in_a_message_exists():
    wanted = {(m.where, flag) for m in MESSAGES for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", m.text)}
    assert {(where, flag) for where, flag in wanted if flag not in FLAGS | NOT_OURS} == set()


def test_every_option_of_the_input_spec_exists():
    from robustkit.adapters.spec import EXAMPLES
    from robustkit.adapters.spec import FLAGS as SPEC

    assert set(SPEC.values()) <= FLAGS
    assert {told.split()[0] for told, _ in EXAMPLES.values()} <= FLAGS


def test_every_command_in_a_message_exists():
    told = [(m.where, line.split()) for m in MESSAGES for line in re.findall(r"`robustkit ([a-z -]+)", m.text)]
    assert told
    for where, words in told:
        names = [word for word in words if not word.startswith("-")]
        assert tuple(names[:2]) in KNOWN or tuple(names[:1]) in KNOWN, f"{where}: robustkit {' '.join(words)}"


def test_every_extra_in_a_message_exists():
    known = {extra.name for extra in EXTRAS}
    for m in MESSAGES:
        assert set(re.findall(r"robustkit\[([a-z-]+)\]", m.text)) <= known, m.where


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.where)
def test_message_is_one_line_that_says_what_to_do(message):
    assert "\n" not in message.text
    assert not UNHELPFUL.search(message.text), message.text
    assert not re.match(r"[A-Z][a-z]+ (?!is|runs|cannot)", message.text), f"{message.text}: begins like a sentence"
    assert CURE.search(message.text), f"{message.text}: names no cure"
