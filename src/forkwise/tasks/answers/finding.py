r"""Where a completion states its final answer: one documented order of rules, one function per rule.

`find_answer` first cuts what is no part of the reply: reasoning in tags, and what a base model writes after the next
question. Then the first rule that applies decides:

1. `tags`: the last `<answer>...</answer>`.
2. `statement`, where "Answer: ..." stands on a line of its own below the last box.
3. `box`: the last `\boxed{...}` that holds something and does not echo the instruction; several boxes in one list of
   the final sentence are a list.
4. `hash`: what follows the last `####` (GSM8K).
5. `statement`: what follows the last "the answer is", "Answer:" or the heading "Final Answer".
6. `choice`: a letter in its usual dress, as in "option (B)", or alone on the last line.
7. `formula`: the last formula of the last lines.
8. `conclusion`: the only number of a last sentence that concludes ("Therefore, she has 7 nickels.").
9. `number`: the last number, only where a task says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_ANSWER = 2_000
"""Characters. The longest of MATH-500 has 53; what is longer counts as wrong without being parsed."""

LONGEST_TEXT = 200_000
"""Characters from the end of a completion in which an answer is looked for."""


@dataclass(frozen=True)
class Finding:
    """What a rule took from a completion.

    Attributes:
        answer: the answer as it is written, None if there is none.
        rule: which rule took it: `"tags"`, `"box"`, `"hash"`, `"statement"`, `"choice"`, `"formula"`, `"conclusion"`, `"number"`; for
            no answer `"none"` or, where the completion ends inside its reasoning, `"unfinished"`.
    """

    answer: str | None
    rule: str


def find_answer(text: str, *, last_number: bool = False) -> Finding:
    """The final answer that a completion states, and the rule that found it. Time is linear in the text.

    Args:
        text: the completion, of which the last 200,000 characters count.
        last_number: whether the last number of the text is an answer where nothing else is.
    """
    reply = without_reasoning(text)
    if reply is None:
        return Finding(None, "unfinished")
    reply = before_next_question(reply)
    for rule in (_tagged, _stated_below_box, _boxed, _hashed, _stated, _chosen, _formula, _concluded):
        finding = rule(reply)
        if finding is not None:
            return finding
    return (_last_number(reply) if last_number else None) or Finding(None, "none")


def extract_answer(text: str) -> str | None:
    """The final answer that a completion states, or None if it states none; see `find_answer`."""
    return find_answer(text).answer


def _finding(answer: str, rule: str) -> Finding | None:
    # A lone surrogate cannot be stored as UTF-8.
    answer = answer.strip()[: 2 * LONGEST_ANSWER].encode("utf-8", "replace").decode()
    return Finding(answer, rule) if answer else None


# Reasoning ------------------------------------------------------------------------------------------------------------

_NAMES = "internal|inner_monologue|deliberation|scratch|think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad|analysis|seed:think|longcat_think"
_REASONING = re.compile(
    rf"<(?P<open>{_NAMES})>|</(?P<close>{_NAMES})>"
    r"|(?P<open_thought><[|｜]begin[_▁]of[_▁]thought[|｜]>)|(?P<close_thought><[|｜]end[_▁]of[_▁]thought[|｜]>)"
    r"|(?P<open_start><\|start_thinking\|>)|(?P<close_start><\|end_thinking\|>)"
    r"|(?P<open_square>\[think\])|(?P<close_square>\[/think\])"
    r"|(?P<open_kimi>◁think▷)|(?P<close_kimi>◁/think▷)"
    r"|(?P<open_channel><\|channel\|>(?:analysis|commentary))|(?P<close_channel><\|channel\|>final(?:<\|message\|>)?)",
    re.IGNORECASE,
)
_BARE_CHANNELS = re.compile(r"\Aanalysis.*assistantfinal", re.DOTALL)  # gpt-oss, its special tokens left out


def without_reasoning(text: str) -> str | None:
    """`text` without reasoning in tags; None if a reasoning begins that never ends.

    A closing tag without an opening one ends a reasoning that the prompt began.
    """
    bare = _BARE_CHANNELS.match(text[-LONGEST_TEXT:]) if text.startswith("analysis") else None
    if bare is not None:
        return text[-LONGEST_TEXT:][bare.end() :]
    if len(text) > LONGEST_TEXT and "<think>" in text and "</think>" not in text:
        return None
    text = text[-LONGEST_TEXT:]
    kept: list[str] = []
    start, opened = 0, ""
    for tag in _REASONING.finditer(text):
        kind, _, family = (tag.lastgroup or "").partition("_")
        name = family or tag[0].strip("</>").lower()
        if kind == "open" and not opened:
            kept.append(text[start : tag.start()])
            opened = name
        elif kind == "close" and opened in ("", name):
            if not opened:
                kept.clear()
            start, opened = tag.end(), ""
    if opened:
        return None
    return "".join((*kept, text[start:]))


# What comes after the reply -------------------------------------------------------------------------------------------

_NEXT = re.compile(
    r"<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|end|return|user|start_header_id)\|>|</s>|<end_of_turn>|\[INST\]"
    r"|<｜end▁of▁sentence｜>"
    r"|^[ \t]{0,4}(?:[#*>]{1,4}[ \t]{0,4}){0,2}"
    r"(?:(?:new|next|another|follow-up|similar|practice)[ \t]{1,4})?"
    r"(?:question|q|problem|exercise|example|human|user|instruction|input|student|task|prompt|问题|题目)"
    r"(?:[ \t]{0,4}(?:\*\*)?[ \t]{0,4}[:：]|[ \t]{0,4}(?:\#?\d{1,4}|[IVX]{1,4})[ \t]{0,4}(?:\*\*)?[ \t]{0,4}[:：.])"
    r"|^[ \t]{0,4}(?:#{1,4}[ \t]{1,4})?\[?(?:instruction|question|problem|exercise|input|user|human)\]?[ \t]{0,4}\#?\d{1,4}?[ \t:]{0,4}$"
    r"|^[ \t]{0,4}(?:#{1,4}[ \t]{1,4})?(?:\[question\]|(?:instruction|question|problem|exercise)[ \t]{1,4}\d{1,4})[ \t]{0,4}$",
    re.IGNORECASE | re.MULTILINE,
)
_NEXT_TASK = re.compile(
    r"(?:\}[.$)\s]{0,6}|^\#{4}[^\n]{1,40}|\banswer is[^\n]{1,60})\n\s{0,4}\n\s{0,4}"
    r"(?=(?:(?!Wait|Let|Is |Are |But|Hmm|Does|Did|So |Can|Now|Check)[A-Z][^\n?]{20,400}\?|Determine|Find|Calculate|Compute|Evaluate|Simplify|Solve|What (?:is|are)|How (?:many|much|long|far)|Which of)\b[^\n]{10,})",
    re.MULTILINE,
)
_TURN = re.compile(r"<|\[INST|\W*(?:human|user|student|instruction)\b", re.IGNORECASE)
_LONGEST_PREAMBLE = 120  # characters before a question that is still the one that was asked


def before_next_question(text: str) -> str:
    """`text` up to where the turn ends or another question begins; a question that is only restated cuts nothing."""
    for mark in _NEXT.finditer(text):
        before = text[: mark.start()]
        if not before.strip():
            continue
        if (
            _TURN.match(mark[0])
            or len(before.strip()) >= _LONGEST_PREAMBLE
            or _states_answer(before)
            or _concluded(before)
        ):
            text = before
            break
    for mark in _NEXT_TASK.finditer(text):
        if _full_boxes(text[: mark.end()]) or not mark[0].startswith("}"):
            return text[: mark.end()]
    return text


def _states_answer(text: str) -> bool:
    return any(rule(text) is not None for rule in (_tagged, _boxed, _hashed, _stated))


# Tags -----------------------------------------------------------------------------------------------------------------

_ANSWER_TAG = re.compile(
    r"</?(?:final_|final)?(?:answer|ans|solution|result)>|<\|/?answer\|>|\[/?answer\]|(?<![</\w])answer>", re.IGNORECASE
)


def _tagged(text: str) -> Finding | None:
    """What the last pair of answer tags holds; inside it a box or a statement counts before the whole."""
    opened: int | None = None
    content = ""
    for tag in _ANSWER_TAG.finditer(text):
        if "/" not in tag[0]:
            opened = tag.end()
        elif opened is not None:
            if not is_echo(text[opened : tag.start()]):
                content = text[opened : tag.start()]
            opened = None
    if opened is not None and not is_echo(text[opened:]) and "\n\n" not in text[opened:].strip():
        content = text[opened:]  # the closing tag was a stop sequence
    if not content:
        return None
    inner = _boxed(content) or _hashed(content) or _stated(content)
    if inner is None and len(content) > 200:
        inner = _chosen(content) or _formula(content)
    return _finding(inner.answer if inner is not None and inner.answer else _plain(content), "tags")


# Boxes ----------------------------------------------------------------------------------------------------------------

_BOX = r"(?:\\|\x08|(?<![A-Za-z]))(?:b?oxed|fbox|framebox)"
_OPENS_BOX = re.compile(_BOX + r"\s{0,8}\{")
_BRACE = re.compile(_BOX + r"\s{0,8}\{|\\.|[{}]", re.DOTALL)
_BARE_BOX = re.compile(
    r"\\(?:boxed|fbox)\s{0,8}(-?[0-9][0-9.,]{0,30}[0-9]|-?[0-9]|\\d?frac\s?\{[^{}]{1,40}\}\{[^{}]{1,40}\}|[A-Za-z]\b)"
)
_ECHO = re.compile(
    r"(?:[\s.…?_*$,:;<>\[\]{}()\\]|\\(?:ldots|dots|cdots|text|quad)|\\phantom\{[^{}]*\}"
    r"|\b(?:your|the|final|answer|answers|here|insert|result|number|solution|goes|put|as|latex|is|correct"
    r"|expression|choice|option|letter|numerical|value|only)\b)*",
    re.IGNORECASE,
)
_LIST = r"[\s$,;.&\\()\[\]]|\b(?:and|or)\b|\\(?:text|quad|qquad|mathrm|,|;)|\{|\}|[A-Za-z](?:_\{?[0-9a-z]\}?)?\s{0,3}="
_BETWEEN = re.compile(rf"(?:{_LIST}){{0,60}}")
_REJECTED = re.compile(
    r"\b(?:not|instead of|rather than|mistake (?:is|would be)|wrong answer(?: is)?)\s*[$*]{0,3}\Z", re.IGNORECASE
)
_AND = re.compile(r"\b(?:and|or)\b")
_REVISION = re.compile(
    r"\b(?:so|then|thus|hence|therefore|total|gives?|giving|makes?|but|not|no|wait|actually|instead|rather|which|if|because|since|get|check|i\.e|or\s+simply)\b|=",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"\.\s|\n\s*\n")


def is_echo(content: str) -> bool:
    """Whether a box or tag holds nothing, or repeats the instruction ("your answer", "...")."""
    return len(content) < 120 and content.strip() not in (r"\{\}", "{}") and _ECHO.fullmatch(content) is not None


def boxes(text: str) -> Iterator[tuple[int, int, str]]:
    r"""`(start, end, content)` of every closed outermost `\boxed{...}` and `\fbox{...}`, and of `\boxed 25`.

    An escaped brace (`\{`) is no brace.
    """
    open_braces: list[tuple[int, int] | None] = []  # where a box and its content start, None for any other brace
    level = 0  # boxes that are open
    closed: list[tuple[int, int, str]] = []
    for token in _BRACE.finditer(text):
        if token[0] == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None:
                level -= 1
                while closed and closed[-1][0] > opened[0]:
                    closed.pop()
                closed.append((opened[0], token.end(), text[opened[1] : token.start()].strip()))
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0].endswith("{") and len(token[0]) > 2:
            open_braces.append((token.start(), token.end()))
            level += 1
    bare = [(match.start(), match.end(), match[1]) for match in _BARE_BOX.finditer(text)]
    yield from sorted(closed + bare) if bare else closed


def _full_boxes(text: str) -> list[tuple[int, int, str]]:
    if "oxed" not in text and "fbox" not in text and "framebox" not in text:
        return []
    return [
        b for b in boxes(text) if not is_echo(unboxed(b[2])) and not _REJECTED.search(text, max(0, b[0] - 40), b[0])
    ]


def unboxed(content: str) -> str:
    """`content` without boxes around parts of it."""
    for _ in range(4):
        inner = next(boxes(content), None) if "oxed" in content or "fbox" in content else None
        if inner is None:
            break
        content = content[: inner[0]] + inner[2] + content[inner[1] :]
    return content.strip()


def extract_boxed(text: str) -> str | None:
    r"""What the last closed `\boxed{...}` holds that is no echo, stripped, its braces balanced; None if there is none."""
    full = _full_boxes(text[-LONGEST_TEXT:])
    return unboxed(full[-1][2]) if full else None


def _boxed(text: str) -> Finding | None:
    full = _full_boxes(text)
    if not full:
        return None
    return _finding(_listed([(s, e, unboxed(c)) for s, e, c in full[-40:]], text), "box")


def _listed(places: list[tuple[int, int, str]], text: str) -> str:
    """The last of these contents or, where only commas and "and" stand between them, the list that it ends."""
    contents = [places[-1][2]]
    for (_, end, content), (start, _, _) in zip(reversed(places[:-1]), reversed(places[1:]), strict=True):
        between = text[end:start]
        named = re.search(r"([A-Za-z](?:_\{?[0-9a-z]\}?)?\s{0,3}=)\W*$", between)
        is_list = (
            between.strip()
            and len(between) < 100
            and not _SENTENCE.search(between)
            and (_BETWEEN.fullmatch(between) or (_AND.search(between) and not _REVISION.search(between)))
        )
        if not is_list:
            break
        if named:
            contents[0] = named[1] + contents[0]
        contents.insert(0, content)
    if len(contents) > 1 and "=" in contents[1]:
        name = re.search(r"([A-Za-z](?:_\{?[0-9a-z]\}?)?\s{0,3}=)\W*$", text[: places[-len(contents)][0]])
        if name and "=" not in contents[0]:
            contents[0] = name[1] + contents[0]
    return ", ".join(dict.fromkeys(contents))


# Statements -----------------------------------------------------------------------------------------------------------

_HASH = re.compile(r"^[ \t]{0,4}####[ \t]{0,8}(?=[-+−$£€¥\\.(*]{0,6}[0-9]|[$\\*]|[A-Ja-z(])", re.MULTILINE)
_STATES = re.compile(
    r"(?<![a-z])(?:"
    r"answers?(?:[\s*_]{0,4}\((?:[^()\n]{0,40})\))?"
    r"(?:\s{1,3}(?:to|of|for)\s{1,3}(?:the|this|your|our)\s{1,3}(?:\w{1,20}\s{1,3}){0,3}?(?:problem|question|exercise|puzzle|equation))?"
    r"(?:\s{1,3}(?:choice|option))?"
    r"[\s*_]{0,8}(?:is|are|would\s{1,3}be|should\s{1,3}be|must\s{1,3}be|will\s{1,3}be|becomes|:|：|=|->|→|⇒)"
    r"|(?:final|correct)\s{1,3}(?:result|value|choice|option|solution)s?[\s*_]{0,8}(?:is|are|:|=)"
    r"|answer\s{1,3}[-—–]{1,2}(?=\s)|ans\s?[.:]"
    r"|答案(?:是|为|[:：])|respuesta(?:\s{1,3}final)?\s{1,3}es|réponse(?:\s{1,3}finale)?\s{1,3}est|antwort\s{1,3}(?:ist|lautet)|ответ\s?[:—-]"
    r"|(?:(?<=\n)|\A)\W{0,4}(?:result|total|final)\W{0,3}[:=]"
    r")(?![a-z])[\s*_:：]{0,8}",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^[#*_ \t]{0,8}(?:the\s{1,3})?(?:final[ \t]{1,3})?answer[*_: \t]{0,8}$\s{0,8}|(?<=\n)A:[ \t]{1,4}",
    re.IGNORECASE | re.MULTILINE,
)
_LINE_STATES = re.compile(
    r"^[#*_> \t]{0,8}(?:the[ \t]{1,3})?(?:(?:final|correct)[ \t]{1,3})?answer[ \t*_]{0,8}(?:is\b|:|：|=)[\s*_:：]{0,8}",
    re.IGNORECASE | re.MULTILINE,
)
_CORRECTS = re.compile(r"\b(?:wait|actually|mistake|wrong|incorrect|correction|oops)\b", re.IGNORECASE)
_DOUBTED = re.compile(
    r"\b(?:if|whether|unless|suppose|assume|assuming|that an?|claims?|wrong|incorrect|think|thinks|thought|say|said|guess)\s+(?:\w+\s+){0,2}\Z",
    re.IGNORECASE,
)
_NO_VALUE = re.compile(
    r"(?:not\b(?!\s+(?:possible|defined|unique|enough|real))|in\s+the\s+(?:form|format)|correct\b|incorrect\b|wrong\b|right\b|that\b|as\s+follows|given\s+(?:by|below|above)"
    r"|unknown\b|unclear\b|below\b|above\b|obtained\b|therefore\b|clear\b|found\b|your\b|indeed\s+correct|supposed\b|expected\b|to\s+be\b|<)",
    re.IGNORECASE,
)
_WITHDRAWN = re.compile(r"\b(?:was|is) (?:wrong|incorrect|not right|a mistake)\b", re.IGNORECASE)
_FORMULA = re.compile(
    r"\$\$(?P<a>.{1,4000}?)\$\$|\\\[(?P<b>.{1,4000}?)\\\]|\\\((?P<c>.{1,4000}?)\\\)"
    r"|(?<![\\$])\$(?P<d>(?![\s])[^$\n]{1,2000}?(?<![\s\\]))\$(?![0-9])",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"(?<![0-9)\]}])[!?](?=\s|\Z)|(?<!\.\.)[.。](?=\s|\Z|\*|\"|<)|[.](?=[A-Z][a-z])|\n")
_PROSE_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_IN_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname|begin|end)\s?\{[^{}]*\}|\\[A-Za-z]+")
_NAMES_IN_FORMULAS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "exp",
        "lim",
        "max",
        "min",
        "gcd",
        "lcm",
        "mod",
        "det",
        "and",
        "for",
        "all",
        "deg",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
    ]
)


def is_formula(content: str) -> bool:
    """Whether what stands between two dollar signs is a formula and not prose between two sums of money."""
    content = content.strip()
    if not content or content[-1] in "+=-*,(" or content[0] in "*,;)":
        return False
    words = _PROSE_WORD.findall(_IN_TEXT.sub(" ", content))
    return not any(len(word) > 2 and word.lower() not in _NAMES_IN_FORMULAS for word in words) or (
        len(words) <= 1 and "=" in content
    )


def formulas(text: str) -> Iterator[tuple[int, int, str]]:
    """`(start, end, content)` of every formula between dollar signs or LaTeX's brackets."""
    start = 0
    while (match := _FORMULA.search(text, start)) is not None:
        content = match["a"] or match["b"] or match["c"] or match["d"]
        if match["d"] is None or is_formula(content):
            yield match.start(), match.end(), content.strip().rstrip(".,;")
            start = match.end()
        else:
            start = match.start() + 1


def _plain(text: str) -> str:
    """`text` without emphasis and the delimiters of its formulas; a dollar sign that is money stays."""
    pieces, start = [], 0
    for begin, end, content in formulas(text):
        pieces += [text[start:begin], content]
        start = end
    text = "".join((*pieces, text[start:]))
    return re.sub(r"\*\*|__|`", "", text).strip(' \t\r\n*"“”')


def _value(text: str) -> str:
    """The value with which `text` begins: its first sentence, or its first formula where that stands alone."""
    text = text[: 2 * LONGEST_ANSWER].lstrip(" \t\r\n*_:：\"“”'…")
    text = text[3:].lstrip() if text.startswith("... ") else text
    first = next(formulas(text), None)
    if first is not None and first[0] == 0 and text.startswith(("$$", r"\[")):
        return first[2]
    masked = list(text)
    for begin, end, _ in formulas(text):
        masked[begin:end] = "0" * (end - begin)
    end_of_sentence = _SENTENCE_END.search("".join(masked))
    sentence = text[: end_of_sentence.start() if end_of_sentence else None]
    full = _full_boxes(sentence)
    if full:
        return unboxed(full[-1][2])
    if re.fullmatch(r"[^$\\]*[0-9]!", sentence.strip(" *")):
        sentence = sentence.replace("!", "")  # a cheerful writer, no factorial
    sentence = re.split(r",?\s+(?:and\s+)?not\s", _plain(sentence).strip(" \t*`,;:"), maxsplit=1)[0]
    if "\\boxed" in sentence:
        return ""  # the box holds nothing
    return sentence if re.search(r"\.[0-9]+\.\.\.$", sentence) else sentence.rstrip(".")


def _hashed(text: str) -> Finding | None:
    return _last_value(text, _HASH, "hash")


def _stated(text: str) -> Finding | None:
    statement, heading = _last_value(text, _STATES, "statement"), _last_value(text, _HEADING, "statement")
    if heading is None or statement is None:
        return heading or statement
    last_heading = max(match.end() for match in _HEADING.finditer(text))
    last_statement = max(match.end() for match in _STATES.finditer(text))
    return heading if last_heading > last_statement else statement


def _stated_below_box(text: str) -> Finding | None:
    """An "Answer: ..." on its own line below the last box, which held a step, or a statement that corrects the box."""
    full = _full_boxes(text)
    if not full:
        return None
    below = text[full[-1][1] :]
    if _CORRECTS.search(below):
        return _stated(below)
    match = None
    for match in _LINE_STATES.finditer(below):
        pass
    if match is None:
        return None
    value = _value(below[match.end() :])
    if not value or _NO_VALUE.match(value) or len(value) > 60 or is_echo(value) or "\\boxed" in value:
        return None
    return _finding(value, "statement")


def _last_value(text: str, pattern: re.Pattern[str], rule: str) -> Finding | None:
    for match in reversed(list(pattern.finditer(text))[-200:]):
        if rule == "statement" and _DOUBTED.search(text, max(0, match.start() - 40), match.start()):
            continue
        value = _value(text[match.end() : match.end() + 2 * LONGEST_ANSWER])
        if value and not is_echo(value) and not _NO_VALUE.match(value) and not _WITHDRAWN.search(value):
            return _finding(value, rule)
    return None


# Choices, formulas, numbers -------------------------------------------------------------------------------------------

_CHOICE = re.compile(
    r"^\W{0,4}([A-J])[.)][ \t]{1,4}\S[^\n]{0,60}\Z"
    r"|\b(?:[Oo]ption|[Cc]hoice|[Aa]lternative|[Ll]etter)s?\s{0,3}(?:is|:)?[\s*:(\"]{0,6}(?:\\text(?:bf)?\{)?\(?([A-Ja-j])\b(?!\s+(?:is|can|must|would)\s+(?:in|not|wrong|be ))"
    r"|\b([A-J])\s+is\s+(?:the\s+)?(?:correct|right|best)\b|\bso\s+([A-J])[.\s]*\Z"
    r"|\b(?:choose|select|pick)\s{1,3}[*(]{0,4}([A-J])\b(?!\s+[a-z])"
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
_MENTION = re.compile(
    r"\b(?:not|for|every|all|any|each|some|whether|where|if|when|with|of|let|given|than|instead of|variable|in terms of)\s*\Z",
    re.IGNORECASE,
)
_HYPOTHESIS = re.compile(
    r"\b(?:not|if|when|where|than|instead of|let|given|for|whether|(?:suppose|assume|assuming)(?:\s+that)?|that)\s*\Z",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:wrong|incorrect|not|false|impossible|too)\b", re.IGNORECASE)
_AFTERWARDS = re.compile(r"[.!?]\s+\S|\n\s*\S")
_UNDECIDED = re.compile(
    r"\b(?:not|if|maybe|perhaps|suppose|let|between|more than|less than|at least|at most|try|would|may|might|could|impossible|cannot|wrong|incorrect|guess|unknown|mistake)\b",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\b(?:therefore|thus|hence|so|in total|altogether|finally|in conclusion|consequently|overall|in all)\b",
    re.IGNORECASE,
)
_COPULA = re.compile(
    r"(?:\A|[.,:]\s)(?:\W{0,4})(?:the|his|her|its|their|our|this|that|it|she|he|they)\b[^.!?\n]{0,120}?\b(?:is|are|was|equals?|totals?|turns out to be|comes? to|rises to|will be|would be|costs?|pays?|needs?|has|earns?|gets?|makes?)\b[^.!?\n]{0,60}\Z",
    re.IGNORECASE,
)
_BOLD_LINE = re.compile(r"\*\*\s?([^*\n]{1,60}?)\s?\*\*[.\s]*")
_END_TOKENS = re.compile(r"\s*(?:<\|?[a-z_]+\|?>|</s>)\s*\Z")
_ANY_NUMBER = re.compile(r"(?<![A-Za-z_])-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")
_NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?")


_DISCARDED = re.compile(
    r"\b(?:not|cannot|can't|isn't|eliminate|rule|consider|incorrect|wrong|exclude|discard|options? are)\b",
    re.IGNORECASE,
)


def _chosen(text: str) -> Finding | None:
    tail = text.rstrip()[-600:]
    match = None
    for candidate in _CHOICE.finditer(tail):
        sentence = re.split(r"[.!?\n]", tail[: candidate.start()])[-1]
        if not _DISCARDED.search(sentence):
            match = candidate
    return None if match is None else _finding(next(letter for letter in match.groups() if letter).upper(), "choice")


def _formula(text: str) -> Finding | None:
    """The last formula of the last two lines that say anything, or the list of formulas that it ends."""
    text = _ASIDE.sub("", text.rstrip()[-4 * LONGEST_ANSWER :])
    if text.endswith("?"):
        return None
    last_line = text.rsplit("\n", 1)[-1]
    bold = _BOLD_LINE.fullmatch(last_line)
    if bold:
        return _finding(_plain(bold[1]), "formula")
    places = [place for place in formulas(text) if not _is_mention(text, place)][-40:]
    if places:
        afterwards = _FORMULA.sub(" ", text[places[-1][1] :])
        if (
            not _AFTERWARDS.search(afterwards)
            and not _DENIED.search(afterwards)
            and not re.search(r"[0-9]", afterwards)
        ):
            return _finding(_listed(places, text), "formula")
    equation = _PLAIN_EQUATION.search(last_line)
    if equation is None or _HYPOTHESIS.search(last_line, 0, equation.start(1)):
        return None
    return _finding(_plain(equation[1]), "formula")


def _is_mention(text: str, place: tuple[int, int, str]) -> bool:
    """Whether a formula is only spoken about: "not $5$", "for every $n$", "if $x = 2$"."""
    pattern = _HYPOTHESIS if "=" in place[2] else _MENTION
    return pattern.search(text, max(0, place[0] - 20), place[0]) is not None


def _concluded(text: str) -> Finding | None:
    """The only number of a last sentence that concludes: "Therefore, she has 7 nickels.", "The total is **72**."."""
    whole = text.strip(" .\n*$")
    if len(whole) < 60 and re.fullmatch(r"-?[0-9][0-9,./]*(?:\s+[A-Za-z]+){0,3}", whole):
        return _finding(whole, "conclusion")  # the whole reply is a number
    text = _ASIDE.sub("", _END_TOKENS.sub("", text.rstrip()[-2 * LONGEST_ANSWER :]).rstrip())
    if not text.endswith((".", "*", "$", "!", ")")) and "\n" in text.strip():
        return None
    sentence = re.split(r"(?<![0-9A-Z])[.!?]\s+|(?<=[0-9)])[.]\s+|\n", text.strip().rstrip(".!"))[-1]
    plain = _plain(sentence)
    if len(plain) > 250 or "oxed" in plain or _UNDECIDED.search(plain):
        return None
    if not (_CONCLUDES.search(plain) or _COPULA.search(plain)):
        return None
    if "=" in plain:
        plain = plain[plain.rindex("=") + 1 :]
    numbers = list(_ANY_NUMBER.finditer(plain))
    if len(numbers) != 1:
        return None
    start = numbers[0].start()
    if start and plain[start - 1] == "$":
        start -= 1
    return _finding(plain[start:], "conclusion")


def _last_number(text: str) -> Finding | None:
    numbers = _NUMBER.findall(text[-4 * LONGEST_ANSWER :])
    return _finding(numbers[-1], "number") if numbers else None
