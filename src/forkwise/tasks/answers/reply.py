r"""The reply within a completion: without reasoning in tags, and without what a base model writes after it."""

from __future__ import annotations

import re

from forkwise.tasks.answers.boxes import boxed, full_boxes
from forkwise.tasks.answers.conclusions import concluded
from forkwise.tasks.answers.limits import LONGEST_TEXT
from forkwise.tasks.answers.statements import hashed, stated, tagged

_NAMES = (
    "internal|inner_monologue|deliberation|scratch|think|thinking|thought|thoughts|reasoning|reason|reflection|scratchpad"
    "|analysis|seed:think|longcat_think"
)
_REASONING = re.compile(  # the first character alone decides nearly everywhere: an alternation of whole tags is slow
    r"[<\[◁](?:(?<=<)(?:"
    rf"\s{{0,3}}(?P<open>{_NAMES})(?:\s[^<>\n]{{0,60}})?>|\s{{0,3}}/\s{{0,3}}(?P<close>{_NAMES})\s{{0,3}}>"
    r"|(?P<open_thought>[|｜]begin[_▁]of[_▁]thought[|｜]>)|(?P<close_thought>[|｜]end[_▁]of[_▁]thought[|｜]>)"
    r"|(?P<open_start>\|start_thinking\|>)|(?P<close_start>\|end_thinking\|>)"
    r"|(?P<open_channel>\|channel\|>(?:analysis|commentary))|(?P<close_channel>\|channel\|>final(?:<\|message\|>)?))"
    r"|(?<=\[)(?:(?P<open_square>think\])|(?P<close_square>/think\]))"
    r"|(?<=◁)(?:(?P<open_kimi>think▷)|(?P<close_kimi>/think▷)))",
    re.IGNORECASE,
)
_BARE_CHANNELS = re.compile(r"\Aanalysis.*assistantfinal", re.DOTALL)  # gpt-oss, its special tokens left out


def without_reasoning(text: str) -> str | None:
    """Returns `text` without reasoning in tags; None if a reasoning begins that never ends.

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
        name = family or tag[kind].lower()
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


_CLOSING = re.compile(
    r"(?:\s+(?:I hope (?:this|it|that)|hope (?:this|that)|(?:please )?(?:let me know|feel free)|if you have any"
    r"|this completes)\b[^\n{}<*$\\]{0,120})+\Z",
    re.IGNORECASE,
)
_STRUCK_OUT = re.compile(r"(?<![\w}~\\$])~~(?=\S)[^~\n$\\]{1,80}(?<=\S)~~(?![\w~\\{$])")
_EMPHASIS = re.compile(r"</?(?:b|strong|em)>", re.IGNORECASE)
_OBJECT = re.compile(
    r"\"(?:final[_ ])?answer\"\s{0,3}:\s{0,3}(?:\"((?:[^\"\\\n]|\\.){1,400})\"|(-?[0-9][0-9.]{0,40}))\s{0,9}[},]"
)


def plain(text: str) -> str:
    """Returns `text` without courtesies, HTML's emphasis and struck-out words; of JSON, `"answer": 5` is announced."""
    text = text[:-400] + _CLOSING.sub("", text[-400:])
    if "~~" in text:
        text = _STRUCK_OUT.sub("", text)
    if "</" in text:
        text = _EMPHASIS.sub("", text)
    return _OBJECT.sub(_announced, text) if '"' in text else text


def _announced(pair: re.Match[str]) -> str:
    value = pair[2] or pair[1].replace("\\\\", "\\").replace('\\"', '"')  # LaTeX that was not escaped stays as it is
    return f"\nAnswer: {value}\n"


_NEXT = re.compile(
    # tokens that end a turn
    r"</?s>|<eos>|\[INST\]|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|<extra_id_[0-9]>|\[\|(?:human|endofturn)\|\]"
    r"|<[|｜](?:im_[a-z]+|end(?:of[a-z]+)?|return|eo[tm](?:_id)?|user|human|assistant|system|start_header_id|header_start"
    r"|(?:begin|start|end)[_▁]of[_▁](?:text|turn|role|sentence)(?:_token)?)[|｜]>"
    # "### Next question:", "Problem 2."
    r"|^[ \t]{0,4}(?:[#*>]{1,4}[ \t]{0,4}){0,2}"
    r"(?:(?:new|next|another|follow-up|similar|practice)[ \t]{1,4})?"
    r"(?:question|q|problem|exercise|example|human|user|instruction|input|student|task|prompt|问题|题目)"
    r"(?:[ \t]{0,4}(?:\*\*)?[ \t]{0,4}[:：]|[ \t]{0,4}(?:\#?\d{1,4}|[IVX]{1,4})[ \t]{0,4}(?:\*\*)?[ \t]{0,4}[:：.])"
    # "## Exercise 3" alone on its line
    r"|^[ \t]{0,4}(?:#{1,4}[ \t]{1,4})?\[?(?:instruction|question|problem|exercise|input|user|human)\]?"
    r"[ \t]{0,4}\#?\d{1,4}?[ \t:]{0,4}$"
    r"|^[ \t]{0,4}(?:#{1,4}[ \t]{1,4})?"
    r"(?:\[question\]|(?:instruction|question|problem|exercise)[ \t]{1,4}\d{1,4})[ \t]{0,4}$",
    re.IGNORECASE | re.MULTILINE,
)
_NEXT_TASK = re.compile(
    # an answer, an empty line
    r"(?:\}[.$)\s]{0,6}|^\#{4}[^\n]{1,40}|\banswer is[^\n]{1,60})\n(?:\s{0,4}\n\s{0,4}|(?=[^\n]{1,400}\?[ \t]*\n))"
    # a paragraph that asks something or tells to do something
    r"(?=[-+*/×÷()0-9. ]{2,60}[=?][ =?]{0,4}\n"
    r"|(?!Wait|Let|Is |Are |But|Hmm|Does|Did|So |Can|Now|Check)[A-Z](?=[^\n]{0,400}[0-9$])[^\n]{10,400}\?[ \t]*$"
    r"|(?:Determine|Find|Calculate|Compute|Evaluate|Simplify|Solve"
    r"|What(?:'s| is| are)|How (?:many|much|long|far)|Which of)\b(?:[^\n]{10,}|[^\n]*[0-9$]))",
    re.MULTILINE,
)
_TURN = re.compile(r"<|\[INST|\[\||\W*(?:human|user|student|instruction)\b", re.IGNORECASE)
_LONGEST_PREAMBLE = 120  # characters before a question that is still the one that was asked


def before_next_question(text: str) -> str:
    """Cuts `text` where the turn ends or another question begins; a question that is only restated cuts nothing."""
    for mark in _NEXT.finditer(text):
        before = text[: mark.start()]
        if not before.strip():
            continue
        if (
            _TURN.match(mark[0])
            or len(before.strip()) >= _LONGEST_PREAMBLE
            or _states_answer(before)
            or concluded(before)
        ):
            text = before
            break
    for mark in _NEXT_TASK.finditer(text):
        if full_boxes(text[: mark.end()]) or not mark[0].startswith("}"):
            return text[: mark.end()]
    return text


def _states_answer(text: str) -> bool:
    return any(rule(text) is not None for rule in (tagged, boxed, hashed, stated))
