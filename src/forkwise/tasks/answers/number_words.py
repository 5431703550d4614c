r"""Numbers and arithmetic in English words: `twenty-one`, `two thirds`, `5 squared`."""

from __future__ import annotations

import re

MULTIPLES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15,
    "mn": 10**6, "mln": 10**6, "bn": 10**9, "bln": 10**9, "tn": 10**12, "trn": 10**12, "lakh": 10**5, "lac": 10**5,
    "crore": 10**7, "myriad": 10**4, "dozen": 12, "score": 20, "gross": 144,
}  # fmt: skip
MULTIPLES |= {word + "s": value for word, value in MULTIPLES.items() if len(word) > 3 and word != "gross"}
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS = {word: value for value, word in enumerate(_SMALL.split())}
WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
_IRREGULAR = {1: "first", 2: "second", 3: "third", 5: "fifth", 8: "eighth", 9: "ninth", 12: "twelfth"}
ORDINALS = {
    _IRREGULAR.get(value, word[:-1] + "ieth" if word.endswith("ty") else word + "th"): value
    for word, value in WORDS.items()
}
_PARTS = {"half": 2, "halves": 2, "quarter": 4, "hundredth": 100, "thousandth": 1000} | {
    word: value for word, value in ORDINALS.items() if 3 <= value <= 10 or value in (12, 20)
}
_HYPHEN = re.compile(r"(?<=[a-z])-(?=(?:half|third|fourth|quarter|fifth|sixth|seventh|eighth|ninth|tenth)s?\b)")
_SPOKEN = [
    (re.compile(r"\b(?:negative|minus)\s+(?=[0-9])", re.IGNORECASE), "-"),
    (re.compile(r"(?<=[0-9])\s+squared\b", re.IGNORECASE), "^2"),
    (re.compile(r"(?<=[0-9])\s+cubed\b", re.IGNORECASE), "^3"),
    (re.compile(r"(?<=[0-9])\s+(?:to the power of|to the power)\s+(?=-?[0-9])", re.IGNORECASE), "^"),
    (re.compile(r"(?<=[0-9])\s+(?:times|multiplied by)\s+(?=-?[0-9])", re.IGNORECASE), r"\\times "),
    (re.compile(r"(?<=[0-9])\s+(?:over|divided by|out of(?: every)?)\s+(?=[0-9])", re.IGNORECASE), "/"),
    (re.compile(r"(?<=[0-9])\s+plus\s+(?=[0-9])", re.IGNORECASE), "+"),
    (re.compile(r"(?<=[0-9])\s+minus\s+(?=[0-9])", re.IGNORECASE), "-"),
    (re.compile(r"\s+factorial\b", re.IGNORECASE), "!"),
]


def words_of_number(text: str) -> int | None:
    """Reads a number in English words, such as `twenty-one` or `one hundred and five`; None for anything else."""
    if len(text) > 60:
        return None
    words = re.split(r"[\s-]+", text.strip().lower())
    if words[0] in ("negative", "minus"):
        number = words_of_number(" ".join(words[1:])) if words[1:] else None
        return None if number is None else -number
    if words and words[-1] in ORDINALS:
        number = ORDINALS[words[-1]]
        words[-1] = next((word for word, value in WORDS.items() if value == number), words[-1])
    if words[:1] == ["a"]:
        words = words[1:]
    words = [word for word in words if word != "and"]
    if not 1 <= len(words) <= 5 or any(word not in WORDS and word not in MULTIPLES for word in words):
        return None
    if words[0] in MULTIPLES and len(words[0]) < 4:
        return None  # bn: b times n
    total = 0
    for word in words:
        if word in MULTIPLES:
            total = max(total, 1) * MULTIPLES[word]
        elif total and not (total % 100 == 0 or (total % 10 == 0 and total % 100 >= 20 and WORDS[word] < 10)):
            return None
        else:
            total += WORDS[word]
    return total


def spoken(text: str) -> str:
    """Respells arithmetic in words as signs: `5 squared`, `2 thirds`, `one half`, `3 and a half`, `5 out of 8`."""
    words = _HYPHEN.sub(" ", text).split()
    for index, word in enumerate(words):
        if word.lower() in WORDS and index + 1 < len(words) and words[index + 1].lower().removesuffix("s") in _PARTS:
            words[index] = str(WORDS[word.lower()])
    text = " ".join(words)
    text = re.sub(r"(?<=[0-9]) and (?:a|one)(?= (?:half|third|quarter|fourth|fifth))", " 1", text)

    def part(match: re.Match[str]) -> str:
        name = match[2].lower()
        if match[1] is None and not match[0].startswith("a ") and name not in ("half", "quarter"):
            return match[0]  # the third day
        return f"{match[1] or '1'}/{_PARTS[name if name in _PARTS else name.removesuffix('s')]}"

    names = "|".join(_PARTS)
    text = re.sub(rf"\b(?:([0-9]+)[ -]|a )?({names})(?:s)?\b(?! (?:of|the|a)\b)", part, text, flags=re.IGNORECASE)
    for pattern, sign in _SPOKEN:
        text = pattern.sub(sign, text)
    return text
