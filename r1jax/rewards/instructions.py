"""Instructions whose following a rule can verify: the 25 of IFEval (arXiv 2311.07911).

`follows` checks each by what google-research's instruction_following_eval checks, the strict way;
`loosely` also accepts a reply without its first or last line, or without asterisks. Where this
differs: languages are told apart by langid (there: langdetect, which is drawn at random),
sentences and capital words by regular expressions (there: NLTK's trained models); what is not a
letter may be counted as one (there: another letter is drawn); keywords are texts, not patterns.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r1jax.checks import check

Arguments = Mapping[str, Any]
# In which `detectable_format:constrained_response` is to answer.
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
# A full stop ends a sentence unless it is an abbreviation's, an initial's or a number's.
_SENTENCE_END = re.compile(
    r"(?<!\b[A-Z])(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)"
    r"[.!?]+[\"')\]”’]*(?=\s|$)"
)
_CAPITALS = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")


def follows(text: str, name: str, arguments: Arguments) -> bool:
    """Whether a reply follows the instruction of this name; a blank one follows none. Raises
    InputError for an instruction that is not known or lacks an argument."""
    known = check_instruction(name, arguments)
    given = {key: value for key, value in arguments.items() if value is not None}
    return bool(text.strip()) and known(text, given)


def loosely(text: str, name: str, arguments: Arguments) -> bool:
    """Whether one of the eight readings of a reply follows it: without its first line, its last or
    both, each with and without asterisks."""
    lines = text.split("\n")
    cuts = [lines, lines[1:], lines[:-1], lines[1:-1]]
    readings = [text, *("\n".join(some).strip() for some in cuts[1:])]
    readings += [reading.replace("*", "") for reading in readings]
    return any(follows(reading, name, arguments) for reading in readings)


def share_followed(answer: str, reference: str) -> float:
    """The share of instructions that an answer follows. reference: JSON of [[name, arguments]]."""
    instructions = json.loads(reference)
    return sum(follows(answer, *one) for one in instructions) / len(instructions)


def check_instruction(name: str, arguments: Arguments) -> Callable[[str, Arguments], bool]:
    """The rule of that name. Raises InputError as `follows` does."""
    check(name in INSTRUCTIONS, f"no instruction is called {name!r}")
    rule, needed = INSTRUCTIONS[name]
    missing = [key for key in needed if arguments.get(key) is None]
    check(not missing, f"instruction {name}: missing argument {', '.join(missing)}")
    for key, value in arguments.items():
        if key.endswith("relation") and value is not None:
            fits = value in ("less than", "at least")
            check(fits, f'instruction {name}: {key} must be "less than" or "at least"')
    return rule


def sentences(text: str) -> int:
    """How many sentences a text has."""
    pieces = _SENTENCE_END.split(text)
    return sum(bool(re.search(r"\w", piece)) for piece in pieces)


def language_of(text: str) -> str:
    """Its ISO 639-1 code; langid reads small letters."""
    import py3langid  # half a second to load

    return py3langid.classify(text.lower())[0]


def _holds(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _found(word: str, text: str) -> int:
    return len(re.findall(re.escape(word.strip()), text, re.IGNORECASE))


def _existence(text: str, a: Arguments) -> bool:
    return all(_found(word, text) for word in a["keywords"])


def _frequency(text: str, a: Arguments) -> bool:
    return _holds(_found(a["keyword"], text), a["relation"], a["frequency"])


def _forbidden(text: str, a: Arguments) -> bool:
    found = (re.search(rf"\b{re.escape(w)}\b", text, re.IGNORECASE) for w in a["forbidden_words"])
    return not any(found)


def _letters(text: str, a: Arguments) -> bool:
    count = text.lower().count(a["letter"].lower())
    return _holds(count, a["let_relation"], a["let_frequency"])


def _language(text: str, a: Arguments) -> bool:
    return language_of(text) == a["language"]


def _sentences(text: str, a: Arguments) -> bool:
    return _holds(sentences(text), a["relation"], a["num_sentences"])


def _words(text: str, a: Arguments) -> bool:
    return _holds(len(re.findall(r"\w+", text)), a["relation"], a["num_words"])


def _paragraphs(text: str, a: Arguments) -> bool:
    """Divided by ***; one that is empty counts against the reply, unless it is at an end."""
    pieces = [piece.strip() for piece in text.split("***")]
    return all(pieces[1:-1]) and sum(map(bool, pieces)) == a["num_paragraphs"]


def _first_word(text: str, a: Arguments) -> bool:
    """Paragraphs are divided by a blank line."""
    pieces = text.split("\n\n")
    count, at = sum(bool(piece.strip()) for piece in pieces), a["nth_paragraph"]
    if count != a["num_paragraphs"] or not 0 < at <= count:
        return False
    words = pieces[at - 1].split()
    first = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'))[0] if words else ""
    return first.lower() == a["first_word"].lower()


def _placeholders(text: str, a: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= a["num_placeholders"]


def _postscript(text: str, a: Arguments) -> bool:
    marker = a["postscript_marker"].strip()
    known = {"P.S.": r"p\.\s?s\.", "P.P.S": r"p\.\s?p\.\s?s"}
    return bool(re.search(known.get(marker, re.escape(marker.lower())), text.lower()))


def _bullets(text: str, a: Arguments) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*].*|-.*)$", text, re.MULTILINE)) == a["num_bullets"]


def _constrained(text: str, a: Arguments) -> bool:
    return any(option in text for option in OPTIONS)


def _highlighted(text: str, a: Arguments) -> bool:
    """*So* and **so**, each with something in it."""
    single = (found.strip("*") for found in re.findall(r"\*[^\n*]*\*", text))
    double = (found[2:-2] for found in re.findall(r"\*\*[^\n*]*\*\*", text))
    return sum(bool(found.strip()) for found in (*single, *double)) >= a["num_highlights"]


def _sections(text: str, a: Arguments) -> bool:
    marks = re.findall(rf"{re.escape(a['section_spliter'].strip())}\s?\d+", text)
    return len(marks) >= a["num_sections"]


def _json(text: str, a: Arguments) -> bool:
    inside = re.sub(r"^```(?:json|Json|JSON)?|```$", "", text.strip()).strip()
    try:
        json.loads(inside)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, a: Arguments) -> bool:
    return any(t.lstrip("<").rstrip(">").strip() for t in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, a: Arguments) -> bool:
    pieces = [piece.strip() for piece in text.split("******")]
    given = [piece for piece in pieces if piece]
    return all(pieces[1:-1]) and len(given) == 2 and given[0] != given[1]


def _repeats(text: str, a: Arguments) -> bool:
    return text.strip().lower().startswith(a["prompt_to_repeat"].strip().lower())


def _ends(text: str, a: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(a["end_phrase"].strip().lower())


def _capital_words(text: str, a: Arguments) -> bool:
    count = sum(word.isupper() for word in _CAPITALS.findall(text))
    return _holds(count, a["capital_relation"], a["capital_frequency"])


def _capital(text: str, a: Arguments) -> bool:
    return text.isupper() and language_of(text) == "en"


def _lowercase(text: str, a: Arguments) -> bool:
    return text.islower() and language_of(text) == "en"


def _no_comma(text: str, a: Arguments) -> bool:
    return "," not in text


def _quoted(text: str, a: Arguments) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


Rule = Callable[[str, Arguments], bool]
INSTRUCTIONS: dict[str, tuple[Rule, Sequence[str]]] = {
    "keywords:existence": (_existence, ["keywords"]),
    "keywords:frequency": (_frequency, ["keyword", "frequency", "relation"]),
    "keywords:forbidden_words": (_forbidden, ["forbidden_words"]),
    "keywords:letter_frequency": (_letters, ["letter", "let_frequency", "let_relation"]),
    "language:response_language": (_language, ["language"]),
    "length_constraints:number_sentences": (_sentences, ["num_sentences", "relation"]),
    "length_constraints:number_paragraphs": (_paragraphs, ["num_paragraphs"]),
    "length_constraints:number_words": (_words, ["num_words", "relation"]),
    "length_constraints:nth_paragraph_first_word": (
        _first_word,
        ["num_paragraphs", "nth_paragraph", "first_word"],
    ),
    "detectable_content:number_placeholders": (_placeholders, ["num_placeholders"]),
    "detectable_content:postscript": (_postscript, ["postscript_marker"]),
    "detectable_format:number_bullet_lists": (_bullets, ["num_bullets"]),
    "detectable_format:constrained_response": (_constrained, []),
    "detectable_format:number_highlighted_sections": (_highlighted, ["num_highlights"]),
    "detectable_format:multiple_sections": (_sections, ["section_spliter", "num_sections"]),
    "detectable_format:json_format": (_json, []),
    "detectable_format:title": (_title, []),
    "combination:two_responses": (_two_responses, []),
    "combination:repeat_prompt": (_repeats, ["prompt_to_repeat"]),
    "startend:end_checker": (_ends, ["end_phrase"]),
    "startend:quotation": (_quoted, []),
    "change_case:capital_word_frequency": (
        _capital_words,
        ["capital_frequency", "capital_relation"],
    ),
    "change_case:english_capital": (_capital, []),
    "change_case:english_lowercase": (_lowercase, []),
    "punctuation:no_comma": (_no_comma, []),
}
