r"""Answers that are not announced: a letter of multiple choice, the last formula, the number of a last sentence."""

from __future__ import annotations

import re

from forkwise.tasks.answers.boxes import clean, listed
from forkwise.tasks.answers.formulas import FORMULA, formulas, without_markup
from forkwise.tasks.answers.limits import LONGEST_ANSWER

_CHOICE = re.compile(
    # "B. Paris" as the whole last line
    r"^\W{0,4}(?:text(?:bf)?\{\(?)?([A-J])[.)]\}?\\?[ \t~]{1,4}\S[^\n]{0,60}\Z"
    # "option (B)"
    r"|\b(?:[Oo]ption|[Cc]hoice|[Aa]lternative|[Ll]etter)s?\s{0,3}(?:is|:)?[\s*:(\"]{0,6}(?:\\text(?:bf)?\{)?\(?"
    r"([A-Ja-j])\b"
    # "B is correct", "so B."
    r"|\b([A-J])\s+is\s+(?:the\s+)?(?:correct|right|best)\b|\b(?:so|leaving|leaves)\s+([A-J])[.\s]*\Z"
    # "choose B"
    r"|\b(?:[Cc]hoose|[Ss]elect|[Pp]ick)\s{1,3}[*(]{0,4}([A-J])\b(?!\s+[a-z])"
    # the letter alone on a line, or in brackets at the end
    r"|^[ \t*_$#>\\]{0,8}(?:text(?:bf)?\{)?\(?([A-J])\)?\}?[.)*_$ \t]{0,6}\Z"
    r"|\(([A-J])\)[.*_$ \t}]{0,6}\Z",
    re.MULTILINE,
)
_PLAIN_EQUATION = re.compile(
    r"(?:^|[\s:,])((?:[A-Za-zα-ωΔ](?:_?[0-9])?|[A-Z]{2})\s?=\s?(?:(?!\.\s)[^\n]){1,80}?)(?<!\.)[.\s*]*\Z"
)
_ASIDE = re.compile(
    r"\s\((?:check|verify|since|because|note|as|we|this|which|here|indeed)\b[^\n]{0,200}\)[.\s]*\Z", re.IGNORECASE
)
_STEP = (
    r"|try|substitut(?:e|ing)|plug(?:ging)?\s+in|uses?|using|contradicts?|since|recall(?:\s+that)?|not(?:e|ice)\s+that"
    r"|at\s+least|at\s+most|(?:more|fewer)\s+than|consider"
)
_MENTION = re.compile(
    r"\b(?:not|for|every|all|any|each|some|whether|where|if|when|with|of|let|given|than|instead of|variable"
    r"|in terms of" + _STEP + r")\s*\Z",
    re.IGNORECASE,
)
_HYPOTHESIS = re.compile(
    r"\b(?:not|if|when|where|than|instead of|let|given|for|whether|reduces?\s+to|cases?"
    r"|(?:suppose|assume|assuming)(?:\s+that)?|that" + _STEP + r")\s*\Z",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:wrong|incorrect|false|impossible|too)\b|\b(?:is|was|are)\s+not\b", re.IGNORECASE)
_AFTERWARDS = re.compile(r"[.!?]\s+\S|\n\s*\S|\A\s*(?:(?:out\s+)?of|times)\b|:\s*\Z")
_SO_FAR = re.compile(r"\bso far\b[^.!?\n]*\Z", re.IGNORECASE)
_UNDECIDED = re.compile(
    r"\b(?:not|if|maybe|perhaps|suppose|let|between|more than|less than|at least|at most|try|would|may|might|could"
    r"|impossible|cannot|wrong|incorrect|false|supposed|guess|unknown|mistake|recall|remember|says?|said|claims?|thinks?|believes?)\b|n['’]t\b"
    r"|\A\W*(?:first|next)\b|\bwe\s+(?:are|were)\s+(?:given|told)\b"
    r"|\b(?:and|or|we|the|an?|to|of|is|are|that|which|so|then|next)\s*\Z",  # cut off
    re.IGNORECASE,
)
_IS_THE_ANSWER = re.compile(
    r"(?:(?:therefore|thus|hence|so)\b,?\s)?([-$]{0,2}[0-9]\S{0,30})"
    r" is (?:the|our|my)(?: (?:final|correct|right))? answer",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\b(?:therefore|thus|hence|so|in total|altogether|finally|in conclusion|consequently|overall|in all)\b"
    r"|\A\W{0,4}(?:it|that)['’]s\b",
    re.IGNORECASE,
)
_COPULA = re.compile(
    r"(?:\A|[.,:]\s)(?:\W{0,4})(?:the|his|her|its|their|our|this|that|it|she|he|they)\b[^.!?\n]{0,120}?\b(?:is|are"
    r"|was|equals?|totals?|turns out to be|comes? to|rises to|will be|would be|should be|costs?|pays?|needs?|has|earns?"
    r"|gets?|makes?)\b(?:[^.!?\n]|\.(?=[0-9])){0,60}\Z",
    re.IGNORECASE,
)
_VERB = (
    r"(?:is|are|was|were|be|been|equals?|totals?|(?:comes?|came|adds? up|amounts?|rises?|rose|sums?|grows?|grew"
    r"|drops?)\s+to|ha[sd]|have|gets?|got|makes?|made|takes?|took|costs?|pays?|paid|needs?|earns?|receives?|gives?|gave"
    r"|yields?|leaves?|left|sells?|sold|spends?|spent|saves?|buys?|bought|eats?|ate|drinks?|drank|owes?|weighs?|reads?"
    r"|runs?|ran|walks?"
    r"|wins?|won|loses?|lost|uses?|keeps?|kept|drives?|drove|scores?|collects?|holds?|contains?|requires?|remains?|sees?"
    r"|saw|sends?|sent|brings?|brought|travels?|covers?|fills?|produces?|plants?|catch(?:es)?|caught|wants?|lasts?"
    r"|(?:can|must|will) (?!(?:multiply|divide|add|subtract|check|test|find|consider|compute|solve|try|reduce)\b)\w+"
    r"|(?:s?he|it|(?-i:(?!So |Thus |Hence |The |In |On |For |Then )[A-Z][a-z]+)) "
    r"(?!multiplies|divides|adds|subtracts)\w+s"
    r"|(?!(?:multipli|divid|add|subtract|call|nam|number|need|label)ed)\w+ed)"
)
_GIVES = re.compile(
    rf"(?:\b{_VERB}|\b(?:it|that)['’]s|[=≈])[\s*:$\\]{{0,4}}(?:(?:exactly|only|just|indeed|now|still|also|then|precisely|approximately"
    r"|about|roughly|around|a total of|equal to|him|her|them|us|you)[\s*:$]{1,4}){0,2}\Z",
    re.IGNORECASE,
)
_AND_SO = re.compile(r",\s+(?:and\s+)?(?:so|therefore|thus|hence)\s", re.IGNORECASE)
_ELSEWHERE = re.compile(
    r"\b(?:when|once|unless|while|because|since|although|though|whenever|provided|where|reduces? to|cases?)\b",
    re.IGNORECASE,
)
_CONTINUES = re.compile(
    r"\s*(?:in|of|out of) (?:every|two|three|four|five|six|seven|eight|nine|ten|twelve)\b"
    r"|\s*(?:equations|unknowns|conditions)\b"
    r"|[^,;:]*?\b(?:must|should|but|then|yet|plus|minus|times|multiplied|divided|is|are|was|were)\b"
    r"|[^,;:]*[,;:]?\s(?:so|but|and|then|which)\s(?:\w+\s){0,4}"
    r"(?:is|are|must|should|need|have|has|multiply|divide|add|subtract|still)\b|\s*(?:less|more)\s+than\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"[.!?;\n]|,\s*\Z|,\s(?=(?:it|that|this|the)\b)|\b(?:so|but|therefore|thus|hence|leaving|leaves|because|since)\b",
    re.IGNORECASE,
)
_SAID_OF_LETTER = re.compile(
    r"[)*},\s]{0,6}(?:if|unless|though|is|was|can|cannot|must|would|could|might|may|do|does|did|has|seems?|looks?|appears?"
    r"|\w{2,6}n['’]t)\b"
    r"(?:(?!\b(?:so|but|therefore|thus|hence|because|since|and not)\b)[^.!?;,\n]){0,120}"
    r"|[^.!?:\n]{0,120}(?:\?|\bbut\s+(?:it|this|that)\b)",
    re.IGNORECASE,
)
_LETTERS = r"(?:\s{0,3}(?:,|\b(?:and|or|nor|to|through)\b|[-–/&])\s{0,3}){1,2}(?:[Oo]ption\s)?[(*]{0,3}[A-J]\b"
_LETTER_AFTER = re.compile(rf"[)*}}]{{0,3}}{_LETTERS}(?!\s+is)")
_LETTER_BEFORE = re.compile(
    r"\b[A-J]\b[)*}]{0,3}\s{0,3}(?:,|\b(?:and|or|nor)|,\s?(?:and|or|nor)|/|&)\s{0,3}(?:[Oo]ption\s)?[(*]{0,3}\Z"
)
_NOT_THE_OTHER = re.compile(
    r"(?:,?\s+and)?,?\s+(?:not|rather\s+than|instead\s+of)\s+(?:option\s+)?[(*]{0,3}[A-J]\b[)*.\s]{0,6}\Z",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<![0-9A-Z])[.!?]\s+|(?<=[0-9)])[.]\s+|\n")
_ONLY_NUMBER = re.compile(
    r"(?:[a-z]\s?(?:[<>=≤≥]=?|\\[lg]eq?)\s?)?-?[0-9][0-9,./]*(?:\s?[%°]|(?:\s+[A-Za-z]+){0,3}(?:\s\([a-z ]+\))?)"
)
_EXPLANATION = re.compile(r"\n\s*\n\W{0,4}(?:explanation|reason(?:ing)?|because)\b", re.IGNORECASE)
_BOLD_LINE = re.compile(r"\*\*\s?([^*\n]{1,60}?)\s?\*\*[.\s]*")
_END_TOKENS = re.compile(r"\s*(?:<\|?[a-z_]+\|?>|</s>)\s*\Z")
_ANY_NUMBER = re.compile(r"(?<![A-Za-z_])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[/:][0-9]+)*")
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")
_DISCARDED = re.compile(
    r"\b(?:not|cannot|neither|nor|none|eliminat\w*|rul(?:e|es|ed|ing)|consider\w*|incorrect|wrong|false|impossible"
    r"|exclud\w*|discard\w*|reject\w*|options? are|rather than|instead of|unlike|except|if|maybe|perhaps|suppose"
    r"|whether|might|could|unless|either|seems?|tempting|plausible|unlikely|less|but|though|nobody|never|no\s+(?:one|reason|need|way))\b|n['’]t\b"
    r"|\?|\A[)*}\s]+(?:is|can|must|would)\s+(?:in|be) ",
    re.IGNORECASE,
)


def chosen(text: str) -> str | None:
    """Returns the last letter of multiple choice that is chosen, and neither discarded nor one of several."""
    tail = _NOT_THE_OTHER.sub(".", text.rstrip()[-600:])
    letter: str | None = None
    for candidate in _CHOICE.finditer(tail):
        index = candidate.lastindex or 0
        before, after = tail[: candidate.start(index)], tail[candidate.end(index) :]
        several = _LETTER_BEFORE.search(before) or _LETTER_AFTER.match(after)
        saying = _SAID_OF_LETTER.match(after)
        clauses = (_CLAUSE_END.split(tail[: candidate.start()])[-1], saying[0] if saying else "")
        is_discarded = any(_DISCARDED.search(clause) for clause in clauses)
        if not several and not is_discarded:
            letter = candidate[index].upper()
        elif candidate[index].upper() == letter:
            letter = None
    return letter


def last_formula(text: str) -> str | None:
    """Returns the last formula of the last two lines that say anything, or the list of formulas that it ends."""
    text = _ASIDE.sub("", text.rstrip()[-4 * LONGEST_ANSWER :])
    if text.endswith("?"):
        return None
    last_line = text.rsplit("\n", 1)[-1]
    bold = _BOLD_LINE.fullmatch(last_line)
    if bold:
        return clean(without_markup(bold[1]))
    places = [formula for formula in formulas(text) if not _is_mention(text, formula)][-40:]
    if places:
        afterwards = FORMULA.sub(" ", text[places[-1][1] :])
        if (
            not _AFTERWARDS.search(afterwards)
            and not _DENIED.search(afterwards)
            and not re.search(r"[0-9]", afterwards)
            and not _SO_FAR.search(text, 0, places[-1][0])
        ):
            return clean(listed(places, text))
    equation = _PLAIN_EQUATION.search(last_line)
    if equation is None or _HYPOTHESIS.search(last_line, 0, equation.start(1)):
        return None
    return clean(without_markup(equation[1]))


def _is_mention(text: str, formula: tuple[int, int, str]) -> bool:
    """Tells whether a formula is only spoken about: "not $5$", "for every $n$", "if $x = 2$"."""
    pattern = _HYPOTHESIS if "=" in formula[2] else _MENTION
    return pattern.search(text, max(0, formula[0] - 20), formula[0]) is not None


def concluded(text: str) -> str | None:
    """Finds the only number of a concluding last sentence: "Therefore, she has 7 nickels.", "The total is **72**."."""
    explained = _EXPLANATION.search(text.strip(), 0, 200)
    whole = text.strip()[: explained.start() if explained else None].strip(" .\n*$")
    if len(whole) < 60 and _ONLY_NUMBER.fullmatch(whole) and not _CONTINUES.search(whole):
        return clean(whole)  # the whole reply is a number
    text = _ASIDE.sub("", _END_TOKENS.sub("", text.rstrip()[-2 * LONGEST_ANSWER :]).rstrip())
    if not text.endswith((".", "*", "$", "!", ")")) and "\n" in text.strip():
        return None
    sentence = _SENTENCE_END.split(text.strip().rstrip(".!"))[-1]
    clause = without_markup(sentence)
    if len(clause) > 250 or "oxed" in clause or _UNDECIDED.search(clause):
        return None
    if not (_CONCLUDES.search(clause) or _COPULA.search(clause) or _IS_THE_ANSWER.fullmatch(clause)):
        return None
    clause = _AND_SO.split(clause)[-1]
    if "=" in clause:
        if _ELSEWHERE.search(clause, 0, clause.rindex("=")):
            return None
        clause = clause[clause.rindex("=") :]
    numbers = list(_ANY_NUMBER.finditer(clause))
    if len(numbers) != 1:
        return None
    named = _IS_THE_ANSWER.fullmatch(clause)
    if named:
        return clean(named[1])
    before, answer = clause[: numbers[0].start()], clause[numbers[0].start() :]
    if not _GIVES.search(before) or _ELSEWHERE.search(before) or _CONTINUES.match(answer, len(numbers[0][0])):
        return None
    return clean("$" + answer if before.endswith("$") else answer)


def last_number_of(text: str) -> str | None:
    """Returns the last number of a text."""
    numbers = _NUMBER.findall(text[-4 * LONGEST_ANSWER :])
    return clean(numbers[-1]) if numbers else None
