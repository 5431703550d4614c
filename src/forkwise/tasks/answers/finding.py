r"""Where a completion states its final answer: one documented order of rules, one function per rule.

`find_answer` first cuts what is no part of the reply: reasoning in tags, and what a base model writes after the next
question. Then the first rule that applies decides:

1. `statement`, where a sentence corrects what was announced ("Wait, it is 6."), in tags too; one that only withdraws
   it ("Oops.") leaves no answer.
2. `tags`: the last `<answer>...</answer>`.
3. `statement`, where "Answer: ..." stands on a line of its own below the last box.
4. `box`: the last `\boxed{...}` that holds something and does not echo the instruction; several boxes in one list of
   the final sentence are a list.
5. `hash`: what follows the last `####` (GSM8K).
6. `statement`: what follows the last "the answer is", "Answer:" or the heading "Final Answer".
7. `choice`: a letter in its usual dress, as in "option (B)", or alone on the last line.
8. `formula`: the last formula of the last lines.
9. `conclusion`: the only number of a last sentence that concludes ("Therefore, she has 7 nickels.").
10. `number`: the last number, only where a task says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from forkwise.tasks.answers.boxes import boxed
from forkwise.tasks.answers.conclusions import chosen, concluded, last_formula, last_number_of
from forkwise.tasks.answers.reply import before_next_question, plain, without_reasoning
from forkwise.tasks.answers.statements import corrected, hashed, stated, stated_below_box, tagged


@dataclass(frozen=True)
class Finding:
    """What a rule took from a completion.

    Attributes:
        answer: the answer as it is written, None if there is none.
        rule: which rule took it: `"tags"`, `"box"`, `"hash"`, `"statement"`, `"choice"`, `"formula"`, `"conclusion"`,
            `"number"`; for no answer `"none"` or, where the completion ends inside its reasoning, `"unfinished"`.
    """

    answer: str | None
    rule: str


_RULES: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("statement", corrected),
    ("tags", tagged),
    ("statement", stated_below_box),
    ("box", boxed),
    ("hash", hashed),
    ("statement", stated),
    ("choice", chosen),
    ("formula", last_formula),
    ("conclusion", concluded),
)


def find_answer(text: str, *, last_number: bool = False) -> Finding:
    """Returns the final answer that a completion states, and the rule that found it. Time is linear in the text.

    Args:
        text: the completion, of which the last 200,000 characters count.
        last_number: whether the last number of the text is an answer where nothing else is.
    """
    reply = without_reasoning(text)
    if reply is None:
        return Finding(None, "unfinished")
    reply = plain(before_next_question(reply))
    for name, rule in _RULES if not last_number else (*_RULES, ("number", last_number_of)):
        answer = rule(reply)
        if answer == "":
            break  # what was announced is withdrawn
        if answer is not None:
            return Finding(answer, name)
    return Finding(None, "none")


def extract_answer(text: str) -> str | None:
    """Returns the final answer that a completion states, or None if it states none; see `find_answer`."""
    return find_answer(text).answer
