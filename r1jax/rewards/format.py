r"""The R1 reply format, and where in a reply the answer is.

Two readings on purpose: `parse_reply` is strict and earns the format reward; `final_answer` is
lenient and feeds the accuracy reward, so that a misplaced tag costs the format reward only.
Everything here takes time linear in the text.
"""

import re
from typing import NamedTuple

from r1jax.data.boxed import BOX, bare, closing_brace, last_boxed
from r1jax.data.problems import Kind

MAX_BARE = 400  # characters of a text that is itself an answer, not a text with one in it
_TAIL = 2_000  # characters at the end of a text that are searched for its closing sentence

# The order of trust, in one place: the first of these that a text has is its answer.
RULES: dict[str, str] = {
    "answer line": "a line `Answer: B` behind the last box; for mathematics only if a word between "
    "the two (`wait`, `mistake`) takes the box back",
    "box": r"the last \boxed{...} or \fbox{...}, or \boxed before a bare token; boxes that only "
    "`and`, `or`, a comma ties together, or a name `y =`, are one answer, a list",
    "hashes": "what follows the last `####`, to the end of the line (GSM8K)",
    "answer is": "what follows the last `answer is`, `Answer:`, `答案是` or heading `Answer`, to "
    "the end of its sentence, or the display formula below it",
    "closing sentence": "the last sentence, if it begins with `therefore`, `so` and the like",
    "whole text": f"the text itself, if at most {MAX_BARE} characters long",
}

_TAG = re.compile(r"(</?(?:think|answer)>)")
_ANSWER = re.compile(r"<answer>((?:[^<]|<(?!/?answer>))*+)</answer>")
_TIED = re.compile(  # what may stand between two boxes of one answer
    r"[\s$]*+(?:\\[()\[\],;: ]|\\q?quad)*+[\s$]*+(?:,|;|、)?[\s$]*+(?:\\q?quad)?[\s$]*+"
    r"(?:(?:\\text\s*+\{)?\s*+(?:and|or|or maybe|or perhaps|or possibly|和|或)\s*+\}?)?"
    r"[\s$]*+(?:\\[()\[\],;: ]|\\q?quad)*+[\s$]*+(?:[a-zA-Z]\w?\s*+=\s*+)?"
)
_SUPPOSED = re.compile(  # what stands before an answer that is not declared
    r"(?:\b(?:suppose|supposing|assume|assuming|if|whether|unless|imagine)\s(?:that\s)?"
    r"(?:(?:the|our|my|your|its)\s)?(?:(?:final|correct|right)\s)?|(?:假设|假如|如果|若|设))$",
    re.IGNORECASE,
)
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_ANSWER_IS = re.compile(
    r"(?:\b(?:answer|result|solution)\b[ \t*_]*+(?:(?:is|are|equals)\b|[:：])"
    r"|答案[ \t*]*+(?:是|为|為|[:：])|^[#*_ \t]*+(?:final[ ]+)?answer[*_ \t]*+$)"
    r"[\s:：*_`]*+(?=\S)",
    re.IGNORECASE | re.MULTILINE,
)
_FINAL_LINE = re.compile(  # **Final answer:** 24
    r"^[#*_ \t]*(?:final )?answer[*_ \t]*[:：][*_ \t]*(?=[-$\\(0-9])", re.IGNORECASE | re.MULTILINE
)
_BULLETS = re.compile(r"(?:[-•] +[^\n]+(?:\n+|$)){2,}")
_NOT_THAT = re.compile(  # 7, not 5
    r"(?<=\S)(?:,\s+(?:and\s+)?not|,?\s+(?:rather\s+than|instead\s+of))\s+[-0-9$\\(*][^,;]*$"
)
_DISPLAYS = (("$$", "$$"), (r"\[", r"\]"))
_SPECIAL = re.compile(r"<[|｜][^\s<>|｜]{1,40}[|｜]>.*", re.DOTALL)  # <|im_start|> and all behind
_SENTENCE_END = re.compile(
    r"(?<![A-Z.])(?<![.\s][a-z])(?<!Mr)(?<!Dr)(?<!sq)(?:\.\s+(?=\S)|(?<!\\)!\s+(?=[A-Z]))|。"
)
_BOLD_END = re.compile(r"(?<=[^\s*])\*\*(?=,\s)")
_EMPHASIS_ENDS = re.compile(r"(?<=[^*_`\s])[*_`]{1,3}[.!]{1,3}$|(?<=\$)!+$")
_SECOND_THOUGHT = re.compile(
    r"\b(?:or|wait|no|not|actually|but|alternatively|however|hmm|maybe|perhaps|correction|sorry|"
    r"instead|rather|also|and|another|otherwise|second|mistake)\b|n't\b",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:wait|actually|correction|mistake|hmm|sorry|oops|wrong|incorrect)\b", re.IGNORECASE
)
_SENTENCES = re.compile(r"(?<=[.!?])\s+|(?<=。)|\n+")
_CLOSING = re.compile(
    r"\W*(?:therefore|thus|hence|so|finally|consequently|in conclusion|in total|altogether|"
    r"this means|this gives|所以|因此|故)\b",
    re.IGNORECASE,
)
_SAYS_A_VALUE = re.compile(r"[0-9$\\]")
_BARE_NUMBER = re.compile(r"[-+]?[0-9][0-9,./]{0,40}")
_LETTER_LINE = re.compile(r"[\s:*_`(\[（]*+[A-Za-z](?![A-Za-z'])")


class Reply(NamedTuple):
    think: str
    answer: str


def parse_reply(text: str) -> Reply | None:
    """`<think> t </think> <answer> a </answer>` with t and a not blank, else None.

    Nothing but white space may stand before, between or after the two blocks, and no tag may
    appear twice (DeepSeek-R1, arXiv 2501.12948v1, section 2.2.2).
    """
    pieces = _TAG.split(text)  # tags at the odd places
    if pieces[1::2] != ["<think>", "</think>", "<answer>", "</answer>"]:
        return None
    before, think, between, answer, after = (piece.strip() for piece in pieces[::2])
    return Reply(think, answer) if think and answer and not before + between + after else None


class Read(NamedTuple):
    """An answer as it was read from a reply, and the rule of RULES that read it."""

    answer: str
    rule: str


def final_answer(reply: str, kind: Kind) -> str | None:
    """The answer that a reply ends in, not blank; None if it has none. See `read_answer`."""
    found = read_answer(reply, kind)
    return found.answer if found else None


def read_answer(reply: str, kind: Kind) -> Read | None:
    r"""The answer that a reply ends in, not blank, with its rule; None if it has none.

    Only what follows the last `</think>` counts, as in R1's summaries: an answer that was merely
    thought of is never taken. There, it is in the last complete `<answer>` block, or in the whole
    if that has no tags at all (a completion without tags is a bare answer). In this text, for
    "math", "choice" and "countdown", the first of RULES that applies finds it; for the other kinds
    it is the text as it stands ("whole text").

    Where a text declares several answers one after another, the last counts, as in the published
    evaluations ("The answer is 7. The answer is 5." is 5): most who write so correct themselves,
    and it gains nothing, for only one is graded. Answers in one declaration, "7 or 5", and boxes
    tied by "and" or "or" are one list, so that hedging with them does not pay. What is only
    supposed ("if the answer is 7") is not declared.
    """
    summary = reply.rpartition("</think>")[2]
    text = extract_answer(summary)
    if text is None:
        text = "" if _TAG.search(summary) else summary.strip()
    if kind in ("math", "choice", "countdown"):
        found = _stated(text, kind)
    else:
        found = Read(text, "whole text")
    return found if found.answer else None


def extract_answer(text: str) -> str | None:
    """The content of the last complete <answer>...</answer>, whatever surrounds it."""
    answers = _ANSWER.findall(text)
    return answers[-1].strip() if answers else None


def boxed_answers(text: str) -> list[str]:
    """The contents of the last box and of those tied to it, each once, in order."""
    found: list[tuple[int, int, str]] = []  # start, end, content
    position = 0
    while box := BOX.search(text, position):
        position = box.end()
        if not box[1]:
            token = bare(box[2])
            found.append((box.start(), box.start(2) + len(token), token))
        else:
            end = closing_brace(text, box.end())
            if end is None:  # cut, and so may be all that follows
                last = last_boxed(text) if BOX.search(text, box.end()) else None
                return [last] if last else []
            found.append((box.start(), end + 1, text[box.end() : end].strip()))
            position = end + 1
    tied = found[-1:]
    for before in reversed(found[:-1]):
        if not _TIED.fullmatch(text, before[1], tied[-1][0]):
            break
        tied.append(before)
    return list(dict.fromkeys(content for _, _, content in reversed(tied)))


def _stated(text: str, kind: Kind) -> Read:
    """The part of a text that it declares its answer, by RULES."""
    if _BARE_NUMBER.fullmatch(text):  # in which no rule but the last can find anything
        return Read(text, "whole text")
    text = _SPECIAL.sub("", text).strip()
    said = list(_ANSWER_IS.finditer(text))
    ends = [
        match.end()
        for match in said
        if not _SUPPOSED.search(text, max(match.start() - 60, 0), match.start())
    ]
    boxes = boxed_answers(text)
    if kind == "choice" and ends and boxes:
        behind = ends[-1] > max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
        if behind and _LETTER_LINE.match(text, ends[-1]):
            return Read(_declared(text[ends[-1] :]), "answer line")
    if boxes and kind == "math":
        line = max((match.end() for match in _FINAL_LINE.finditer(text)), default=0)
        box = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
        if box < line and _TAKEN_BACK.search(text, box, line):
            return Read(_declared(text[line:]), "answer line")
    if boxes:
        return Read(", ".join(boxes) if all(boxes) else "", "box")
    marks = _HASHES.findall(text)
    if marks:
        return Read(marks[-1].strip(), "hashes")
    if ends:
        return Read(_declared(text[ends[-1] :]), "answer is")
    closing = _closing_sentence(text)
    if closing:
        return Read(closing, "closing sentence")
    return Read(text if len(text) <= MAX_BARE and not said else "", "whole text")


def _declared(rest: str) -> str:
    """What is declared behind "answer is": a display formula, or the sentence in the line."""
    for opening, closing in _DISPLAYS:
        if rest.startswith(opening):
            inside, found, _ = rest[len(opening) :].partition(closing)
            if found and inside.strip():
                return inside.strip()
    bullets = _BULLETS.match(rest)
    if bullets:
        return ", ".join(item.strip("-• ") for item in bullets[0].splitlines() if item.strip())
    line = rest.partition("\n")[0].strip()
    end = _SENTENCE_END.search(line)
    # What follows may take the answer back: then all of it is read, and picks nothing.
    if end and not _SECOND_THOUGHT.search(line, end.end()):
        line = line[: end.start()]
    line = _NOT_THAT.sub("", line)
    bold = _BOLD_END.search(line)
    if bold and line.count("**") % 2:  # it began before the answer
        line = line[: bold.start()]
    line = _EMPHASIS_ENDS.sub("", line)  # a `!` behind a number may be a factorial
    bare = line.rstrip(" .").rstrip("*_`").rstrip()
    return bare if bare else line


def _closing_sentence(text: str) -> str:
    """The last sentence that says a value, if a concluding word leads it; "" if none does."""
    sentences = [s.strip() for s in _SENTENCES.split(text[-_TAIL:]) if s.strip()]
    if len(sentences) < 2:
        return ""
    while len(sentences) > 1 and not _SAYS_A_VALUE.search(sentences[-1]):
        if _SECOND_THOUGHT.search(sentences[-1]):
            return ""
        sentences.pop()
    last = sentences[-1]
    return last if _CLOSING.match(last) and len(last) <= MAX_BARE else ""
