"""Finding the answer that a completion states, and deciding whether it is the gold answer."""

from forkwise.tasks.answers.boxes import extract_boxed
from forkwise.tasks.answers.classes import answer_classes
from forkwise.tasks.answers.finding import Finding, extract_answer, find_answer
from forkwise.tasks.answers.limits import LONGEST_ANSWER
from forkwise.tasks.answers.verifier import MathVerifier, compare_exactly, require_math_verify

__all__ = [
    "LONGEST_ANSWER",
    "Finding",
    "MathVerifier",
    "answer_classes",
    "compare_exactly",
    "extract_answer",
    "extract_boxed",
    "find_answer",
    "require_math_verify",
]
