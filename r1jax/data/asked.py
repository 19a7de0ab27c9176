"""Prompts that a file asks of a model, each with its place and its id."""

import dataclasses
from pathlib import Path
from typing import Any

from r1jax.checks import InputError, check
from r1jax.data.conversation import Conversation
from r1jax.data.rows import Bad, Place, field, read_rows
from r1jax.data.tasks import read_files


@dataclasses.dataclass(frozen=True)
class Asked:
    """prompt: the text that the model reads; empty: it begins a text of its own. where: its place,
    for errors. id: the row's own, else its line. told: False for a blank line, which keeps its
    place and is not asked."""

    prompt: str
    where: str
    id: str
    told: bool = True


def read_prompts(path: str, conversation: Conversation) -> list[Asked]:
    """The prompts of a file, as the model reads them.

    .jsonl and .json have {"prompt"} or {"messages"} and an optional "id". Raises InputError that
    names the line at fault, or if there are no prompts.
    """
    if path.endswith((".jsonl", ".json")):
        return read_rows(path, lambda row, place: _of_row(row, place, conversation))
    try:
        return read_lines(Path(path).read_text("utf-8-sig"), path, conversation)
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None


def read_lines(text: str, name: str, conversation: Conversation) -> list[Asked]:
    """A prompt a line. Raises InputError that names the line, or if all are blank."""
    check(bool(text.strip()), f"{name}: no prompts")
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    found = []
    for number, line in enumerate(lines, start=1):
        where, told = f"{name}:{number}", bool(line.strip())
        try:
            prompt = conversation.prompt(line) if told else ""
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        found.append(Asked(prompt, where, str(number), told))
    return found


def _of_row(row: dict[str, Any], place: Place, conversation: Conversation) -> Asked:
    given = row.get("id", place.number)
    check(type(given) in (str, int), 'field "id" must be a string or an integer')
    name = str(given)
    if "messages" in row:
        return Asked(conversation.prompt(row["messages"]), str(place), name)
    text = field(row, "prompt", str)
    return Asked(conversation.prompt(text) if text else "", str(place), name)


def read_questions(data: str, task: str, bad: Bad, conversation: Conversation) -> list[Asked]:
    """The problems of "[TASK=]FILE,...". Raises InputError as `read_files` does."""
    found = []
    for problem in read_files(data, task, bad):
        where = f"problem {problem.id}"
        try:
            found.append(Asked(conversation.prompt(problem.prompt), where, problem.id))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return found
