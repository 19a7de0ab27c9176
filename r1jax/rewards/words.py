"""Does a text use all of some words?"""

import re
import unicodedata

# Letters and digits, with apostrophes or hyphens inside: "isn't" and "t-shirt" are one word each.
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


def share_of_words(text: str, words: str) -> float:
    """The share of the blank-separated `words` that the text uses, in [0, 1].

    Whole words, whatever their case. Any inflection is another word: "dogs" and "dog's" are no
    "dog". Raises ValueError if there are no words to look for.
    """
    wanted = {_normal(word) for word in words.split()}
    if not wanted:
        raise ValueError("the problem names no words that the text must use")
    return len(wanted & set(_WORD.findall(_normal(text)))) / len(wanted)


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().replace("’", "'")
