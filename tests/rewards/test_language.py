import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.checks import InputError
from r1jax.rewards.language import LANGUAGES, language_share

# What a model may think, in the language's own words.
THOUGHTS = {
    "en": "Let me think about this step by step. First we need to find the number of solutions. "
    "Wait, that is not right, let me check it again. So the answer should be forty two.",
    "fr": "Réfléchissons étape par étape. Nous devons trouver le nombre de solutions. Attends, ce "
    "n'est pas correct, je vérifie encore une fois. Donc la réponse est quarante-deux.",
    "de": "Denken wir Schritt für Schritt nach. Zuerst müssen wir die Anzahl der Lösungen finden. "
    "Moment, das stimmt nicht, ich prüfe es noch einmal. Also ist die Antwort zweiundvierzig.",
    "es": "Pensemos paso a paso. Primero tenemos que encontrar el número de soluciones. Espera, "
    "eso no es correcto, voy a comprobarlo otra vez. Entonces la respuesta es cuarenta y dos.",
    "it": "Ragioniamo passo dopo passo. Dobbiamo trovare il numero di soluzioni. Aspetta, questo "
    "non è corretto, controllo di nuovo. Quindi la risposta è quarantadue.",
    "pt": "Vamos pensar passo a passo. Precisamos encontrar o número de soluções. Espere, isso "
    "não está certo, vou verificar novamente. Portanto, a resposta é quarenta e dois.",
    "nl": "Laten we stap voor stap nadenken. We moeten het aantal oplossingen vinden. Wacht, dat "
    "klopt niet, ik controleer het nog een keer. Dus het antwoord is tweeënveertig.",
    "pl": "Pomyślmy krok po kroku. Musimy znaleźć liczbę rozwiązań. Czekaj, to nie jest "
    "poprawne, sprawdzę jeszcze raz. Zatem odpowiedź to czterdzieści dwa.",
    "tr": "Adım adım düşünelim. Çözümlerin sayısını bulmamız gerekiyor. Bekle, bu doğru değil, "
    "tekrar kontrol edeyim. Öyleyse cevap kırk iki olmalı.",
    "vi": "Hãy suy nghĩ từng bước. Chúng ta cần tìm số nghiệm của phương trình. Khoan đã, điều "
    "đó không đúng, để tôi kiểm tra lại. Vậy đáp án là bốn mươi hai.",
    "ru": "Давайте подумаем шаг за шагом. Нам нужно найти количество решений. Подожди, это "
    "неверно, проверю ещё раз. Значит, ответ сорок два.",
    "uk": "Давайте подумаємо крок за кроком. Нам потрібно знайти кількість розв'язків. "
    "Зачекай, це неправильно, перевірю ще раз. Отже, відповідь сорок два.",
    "ar": "لنفكر خطوة بخطوة. علينا أن نجد عدد الحلول. انتظر، هذا ليس صحيحًا، دعني أتحقق مرة أخرى.",
    "fa": "بیایید گام به گام فکر کنیم. باید تعداد جواب‌ها را پیدا کنیم. صبر کن، این درست نیست.",
    "hi": "आइए चरण दर चरण सोचें। हमें हलों की संख्या ज्ञात करनी है। रुकिए, यह सही नहीं है।",
    "ko": "단계별로 생각해 보자. 먼저 해의 개수를 구해야 한다. 잠깐, 이건 틀렸어. 다시 확인하자.",
    "zh": "让我们一步一步地思考。首先要求出解的个数。等等，这不对，我再检查一遍。",
    "ja": "一歩ずつ考えよう。まず解の個数を求める必要がある。待って、これは違う。",
    "th": "มาคิดทีละขั้นตอนกัน ก่อนอื่นเราต้องหาจำนวนคำตอบ เดี๋ยวก่อน นั่นไม่ถูกต้อง",
    "el": "Ας σκεφτούμε βήμα προς βήμα. Πρέπει να βρούμε το πλήθος των λύσεων.",
    "he": "בואו נחשוב צעד אחר צעד. עלינו למצוא את מספר הפתרונות.",
}
LATEX = r"""We have $\frac{a}{b} = \sqrt{2}$, so \[ \text{the sum is } \int_0^1 x\,dx \] and then
\begin{align*} \text{somme} &= 2 \\ \sin\theta &= \cos\alpha \end{align*}
\(\mathrm{lim}_{n \to \infty} a_n = 0\), x^2 + 3x = f(x), gcd(a, b), for the triangle ABC.
```python
def fonction(nombre): return "la valeur est trop grande"
```
That gives `la_valeur`, which costs $5 and not $6, by https://example.fr/la/page/est/ici."""


@pytest.mark.parametrize("spoken", THOUGHTS)
def test_a_thought_is_in_its_own_language_only(spoken):
    assert {code for code in THOUGHTS if language_share(THOUGHTS[spoken], code) > 0} == {spoken}
    assert language_share(THOUGHTS[spoken], spoken) == 1


def test_every_known_language_can_be_asked_for():
    codes = {code for group in LANGUAGES.values() for code in group}
    assert codes >= set(THOUGHTS)
    for code in codes:
        assert language_share("", code) == 0


def test_formulas_and_code_are_no_words():
    assert language_share(LATEX, "en") == 1
    assert language_share(LATEX, "fr") == 0


def test_a_text_without_words_is_in_no_language():
    for text in (
        "",
        "2 + 2 = 4",
        r"$\text{so}$",
        "x",
        "<think></think>",
        "ABC",
        "π",
        "sin cos, lim",
    ):
        assert language_share(text, "en") == 0


@pytest.mark.parametrize(
    ("text", "target", "share"),
    [
        ("so wait 因此答案", "en", 2 / 6),  # a character is a word
        ("so wait 因此答案", "zh", 4 / 6),
        ("因此x=2，所以y=3。", "zh", 1),
        ("答案是 Python", "zh", 3 / 4),
        ("答案はこれ。所以不对。", "ja", 5 / 9),  # kana in the first sentence, not in the second
        ("答案はこれ。所以不对。", "zh", 4 / 9),
        ("그래서 the answer 이다", "ko", 2 / 4),
        ("значит so that", "ru", 1 / 3),
        ("因 costs $5 more than $6 果", "zh", 2 / 5),  # prices open no formula
    ],
)
def test_scripts_are_counted_by_word(text, target, share):
    assert language_share(text, target) == pytest.approx(share)


def test_a_switch_between_sentences_is_seen():
    """Half of the words each, give or take a piece at the border."""
    for other in ("fr", "de", "es", "it", "pt", "nl", "pl", "tr"):
        mixed = " ".join([THOUGHTS["en"], THOUGHTS[other]])
        english, foreign = (len(THOUGHTS[code].split()) for code in ("en", other))
        share = english / (english + foreign)
        assert language_share(mixed, "en") == pytest.approx(share, abs=0.15)
        assert language_share(mixed, other) == pytest.approx(1 - share, abs=0.15)


def test_a_loan_word_costs_nothing_in_its_own_script():
    text = "We make the ansatz that every eigenvalue of the Hamiltonian is positive, voilà."
    assert language_share(text, "en") == 1


def test_short_texts_have_the_benefit_of_the_doubt():
    for text in ("Hmm.", "Compute:", "Wait, no.", "Thus:"):
        assert language_share(text, "en") == 1


@pytest.mark.parametrize(("field", "least"), [("problem", 0.99), ("solution", 0.98)])
def test_real_mathematics_is_in_english(data_dir, field, least):
    """MATH-500; what is neither wholly English nor wholly not French has hardly a word."""
    lines = (data_dir / "math500" / "test.jsonl").read_text().splitlines()
    shares = [language_share(json.loads(line)[field], "en") for line in lines]
    assert sum(shares) / len(shares) > least
    french = [language_share(json.loads(line)[field], "fr") for line in lines]
    assert sum(french) / len(french) < 0.1


PIECES = st.sampled_from([*THOUGHTS.values(), LATEX, "$", "\\(", "```", "x=2", "\n", "é", "ー"])


@given(st.lists(PIECES | st.text(max_size=5), max_size=6).map(" ".join))
def test_shares_of_any_text(text):
    shares = {code: language_share(text, code) for code in THOUGHTS}
    assert all(0 <= share <= 1 for share in shares.values())
    # Languages in scripts of their own share no word.
    assert sum(shares[code] for code in ("en", "ru", "ar", "hi", "ko", "zh", "th")) <= 1 + 1e-9
    assert shares == {code: language_share(text, code) for code in THOUGHTS}


@pytest.mark.parametrize(
    "part", ["\\(", "\\[", "\\begin{a}", "$a", "`", "``` ` ", "a'", "é", "https://a"]
)
def test_time_is_linear(part):
    start = time.perf_counter()
    language_share(part * (200_000 // len(part)), "en")
    assert time.perf_counter() - start < 5


def test_unknown_language():
    with pytest.raises(InputError, match="language 'xx' is not known; expected one of ar, bg"):
        language_share("a", "xx")
