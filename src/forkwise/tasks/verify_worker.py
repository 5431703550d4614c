"""The code that runs inside a worker process: one JSON line in, one JSON line out, until the pipe closes.

`math`: `{"gold", "prediction"}` -> `{"correct"}`, see `math_worker.py`.
`reasoning-gym`: `{"op": "make" | "score" | "names" | "check", ...}`, see `_reasoning_gym`.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from forkwise.processes import end_with

Handler = Callable[[dict[str, Any]], dict[str, Any]]


def main(settings: dict[str, Any]) -> None:
    """Serves requests from standard input; `settings` are those of `WorkerPool`."""
    import resource

    def limit(limited: int, amount: int) -> None:
        # Where the system refuses a limit (macOS: address space), the caller's wall clock still holds.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limited, (amount, resource.getrlimit(limited)[1]))

    end_with(0)  # also in the middle of a request
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not be taken for a reply
    logging.disable(logging.CRITICAL)
    limit(resource.RLIMIT_AS, int(settings["memory_mb"]) * 2**20)
    limit(resource.RLIMIT_CORE, 0)

    def send(reply: dict[str, Any]) -> None:
        data = memoryview(json.dumps(reply).encode() + b"\n")
        while data:
            data = data[replies.write(data) :]

    try:
        if settings["kind"] == "math":
            from forkwise.tasks.answers.worker import make_handler

            handler: Handler = make_handler()
        else:
            handler = _reasoning_gym()
    except Exception as error:
        send({"detail": f"{type(error).__name__}: {error}"})
        return
    send({"ready": True})
    for line in sys.stdin.buffer:
        # If the caller is killed during a request that keeps our watch waiting, too, the kernel ends us.
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        limit(resource.RLIMIT_CPU, math.ceil(spent + 60 + 2 * settings["timeout"]))
        try:
            reply = handler(json.loads(line))
        except Exception as error:
            reply = {"failure": "error", "detail": f"{type(error).__name__}: {error}"[:500]}
        send(reply)


_LITERAL = (
    ast.Expression,
    ast.BinOp,
    ast.operator,
    ast.UnaryOp,
    ast.unaryop,
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Load,
)
_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln", "sqrt", "Abs")
)


def check_harmless(source: str, *, symbols: bool) -> None:
    """Raises ValueError unless `source` is a literal or arithmetic; `symbols` also allows names and functions.

    With `symbols` strings are refused: sympy would parse, that is evaluate, their content.
    """
    for node in ast.walk(ast.parse(source.strip(), mode="eval")):
        if symbols and isinstance(node, ast.Name):
            harmless = not node.id.startswith("_")
        elif symbols and isinstance(node, ast.Call):
            harmless = isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS and not node.keywords
        elif symbols and isinstance(node, ast.Constant):
            harmless = isinstance(node.value, int | float | complex)
        else:
            harmless = isinstance(node, _LITERAL)
        if not harmless:
            raise ValueError(f"{type(node).__name__} is not arithmetic")


def _disarm_reasoning_gym() -> None:
    """Disarms the scorers of reasoning-gym that call `eval` or sympy's `parse_expr` on the model's text.

    They get versions that refuse anything but literals and arithmetic. Call it before reasoning_gym is imported.
    """
    import sympy
    from sympy.parsing import sympy_parser

    parse_expr = sympy_parser.parse_expr

    def parse_arithmetic(source: str, *args: Any, **kwargs: Any) -> Any:
        check_harmless(source, symbols=True)
        return parse_expr(source, *args, **kwargs)

    def evaluate_literal(source: str) -> Any:
        check_harmless(source, symbols=False)
        return eval(source.strip(), {"__builtins__": {}})  # literals and arithmetic, checked above

    sympy.parse_expr = sympy.parsing.parse_expr = sympy_parser.parse_expr = parse_arithmetic
    import reasoning_gym  # noqa: F401

    for name, module in list(sys.modules.items()):
        if name.startswith("reasoning_gym"):
            module.eval = evaluate_literal  # type: ignore[attr-defined]  # shadows the builtin in that module


def _reasoning_gym() -> Handler:
    """Answers `names` (all tasks), `check` (a task's settings), `make` (an item) and `score` (of an item's answer)."""
    _disarm_reasoning_gym()
    from reasoning_gym.factory import DATASETS, create_dataset

    @lru_cache(64)
    def dataset(name: str, config: str, seed: int, size: int) -> Any:
        return create_dataset(name, seed=seed, size=size, **json.loads(config))

    @lru_cache(4096)
    def item(name: str, config: str, seed: int, size: int, index: int) -> Any:
        return dataset(name, config, seed, size)[index]

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "names":
            return {"names": sorted(DATASETS)}
        if request["op"] == "check":
            fields = sorted(set(DATASETS[request["name"]][1].__dataclass_fields__) - {"seed", "size"})
            try:
                dataset(request["name"], request["config"], 0, 1)
            except Exception as error:
                return {"fields": fields, "problem": f"{error or type(error).__name__}"}
            return {"fields": fields}
        key = (request["name"], request["config"], request["seed"], request["size"])
        entry = item(*key, request["index"])
        if request["op"] == "make":
            return {"question": entry["question"], "answer": entry["answer"]}
        if question_hash(entry["question"]) != request["question_hash"]:
            return {"failure": "error", "detail": "this version of reasoning-gym makes another question of the seed"}
        try:
            return {"score": float(dataset(*key).score_answer(request["answer"], entry))}
        except Exception:  # the scorer cannot read the answer (prime_factorization: letters), or would evaluate it
            return {"score": 0.0}

    return handle


def question_hash(question: str) -> str:
    """Returns 16 hex digits that name a question on every machine."""
    return hashlib.sha256(question.encode("utf-8", "replace")).hexdigest()[:16]
