"""Log-probs and texts as servers write them: nulls, collapsed candidates, the prompt in front, reasoning split off."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from importing import jsonl, refused, run_import

from forkwise.errors import InputError
from forkwise.explore.traces import load_traces
from forkwise.report.importing import imported_file
from forkwise.samples import write_shard
from forkwise.samples.reasoning import join_reasoning
from forkwise.terminal import complain, echo

TOKENS = ["So", " we", " try", " x", " = ", "3", "."]


def chat(message: dict[str, Any], content: list[dict[str, Any]] | None = None, **choice: Any) -> dict[str, Any]:
    logprobs = None if content is None else {"content": content}
    return {
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 5, "completion_tokens": len(content or ())},
    }


def place(token: str, logprob: float | None, *others: float | None) -> dict[str, Any]:
    candidates = [{"token": token, "logprob": logprob}]
    candidates += [{"token": f" {i}", "logprob": value} for i, value in enumerate(others)]
    return {"token": token, "logprob": logprob, "top_logprobs": candidates}


def legacy(text: Any, tokens: Any, logprobs: Any, top: Any = None, **usage: int) -> dict[str, Any]:
    held = {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top}
    choice = {"index": 0, "text": text, "logprobs": held if tokens is not None else None, "finish_reason": "length"}
    return {"object": "text_completion", "model": "m", "choices": [choice], **({"usage": usage} if usage else {})}


def entropies(folder: Path) -> tuple[list[float], list[float]]:
    [run] = load_traces(folder, vocabulary=1000)
    tokens = run.traces[0].tokens
    assert tokens is not None
    assert tokens.upper is not None
    return tokens.entropy.tolist(), tokens.upper.tolist()


# ---- bounds of imported lists


def test_the_sampled_token_and_two_best_are_not_the_top_three(tmp_path: Path) -> None:
    """Truth: .34 .33 .32 and 97 tokens that share .01. vLLM lists the sampled one of these with the best two."""
    small = 0.01 / 97
    content = [place("So", math.log(0.7), math.log(0.2), math.log(0.05))]
    content += [place(" x", math.log(small), math.log(0.34), math.log(0.33))]
    run_import(tmp_path, jsonl(tmp_path / "a.jsonl", chat({"content": "So x"}, content)))
    truth = -sum(p * math.log(p) for p in (0.34, 0.33, 0.32, *[small] * 97))
    low, high = entropies(tmp_path / "out")
    assert low[1] <= truth <= high[1]


def test_a_null_costs_precision_there_alone(tmp_path: Path) -> None:
    """Servers write NaN as null."""
    content = [place(token, math.log(0.7), math.log(0.2), math.log(0.05)) for token in TOKENS]
    content[3] = place(" x", None, math.log(0.2), math.log(0.05))
    [row], report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", chat({"content": "".join(TOKENS)}, content)))
    assert row["logprobs"][3] is None
    assert report.notes["with a null among the log-probs, which tells nothing there"] == 1
    low, high = entropies(tmp_path / "out")
    assert low[2] == low[4]
    assert (low[3], high[3]) == (pytest.approx(0.2 * 1.609 + 0.05 * 2.996 + 0.75 * 0.288, abs=1e-3), max(high))


def test_log_probs_that_are_all_null_are_left_out(tmp_path: Path) -> None:
    content = [place(token, None, None) for token in TOKENS]
    [row], report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", chat({"content": "".join(TOKENS)}, content)))
    assert (row["completion"], row["tokens"], row["logprobs"]) == ("".join(TOKENS), None, None)
    assert report.notes["whose log-probs are all null, kept without them"] == 1


def test_candidates_of_one_text_cost_precision_there_alone(tmp_path: Path) -> None:
    top = [{"So": -0.5, "a": -1.5, "b": -3.0}, {" x": -0.5, "\ufffd": -1.5}, {" ok": -0.5, "c": -1.5, "d": -3.0}]
    run_import(
        tmp_path,
        jsonl(tmp_path / "a.jsonl", legacy("So x ok", ["So", " x", " ok"], [-0.5] * 3, top, completion_tokens=3)),
    )
    low, high = entropies(tmp_path / "out")
    assert low[0] == low[2]
    assert high[0] == high[2]
    # The third candidate may be one like the second: .606, .223 and the rest on one token is possible, and so is more.
    remainder = 1 - math.exp(-0.5) - math.exp(-1.5)
    assert low[1] <= 0.5 * math.exp(-0.5) + 1.5 * math.exp(-1.5) - remainder * math.log(remainder)
    assert high[1] > high[0]


# ---- the prompt in front


def test_echo_is_cut_off(tmp_path: Path) -> None:
    """The lists hold 5 tokens, of which the server counts 4 as the prompt's and 1 as the completion's."""
    top = [None, {"+": -2.0, "a": -1.0}, {"2": -1.0, "b": -1.1}, {"=": -0.5, "c": -1.0}, {"4": -0.1, "5": -3.0}]
    record = legacy("2+2=4", list("2+2=4"), [None, -2.0, -1.0, -0.5, -0.1], top, prompt_tokens=4, completion_tokens=1)
    [row], report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", record))
    assert (row["completion"], row["tokens"], row["n_tokens"]) == ("4", ["4"], 1)
    assert row["logprobs"] == pytest.approx([-0.1])
    assert len(row["top_logprobs"]) == 1
    assert report.notes["with the prompt in front (echo), which was cut off"] == 1


@pytest.mark.parametrize(
    ("record", "completion"),
    [
        # Two choices, whose counts are added up.
        (
            {
                "choices": [
                    {"text": f"1+1={x}", "logprobs": {"tokens": [*"1+1=", x], "token_logprobs": [None, *[-1.0] * 4]}}
                    for x in "23"
                ],
                "usage": {"prompt_tokens": 4, "completion_tokens": 2},
            },
            ["2", "3"],
        ),
        # No counts, but the prompt is known.
        ({**legacy("2+2=4", list("2+2=4"), [None, *[-1.0] * 4]), "prompt": "2+2="}, ["4"]),
        # A first token that the text does not show.
        (legacy("2+2=4", ["<s>", *"2+2=4"], [None, *[-1.0] * 5], prompt_tokens=5, completion_tokens=1), ["4"]),
        # An end token is counted but not listed.
        (legacy("2+2=4", list("2+2=4"), [None, *[-1.0] * 4], prompt_tokens=4, completion_tokens=2), ["4"]),
        # No lists: five characters and the prompt's one per token are too much for one token.
        ({**legacy("2+2=4", None, None, prompt_tokens=4, completion_tokens=1), "prompt": "2+2="}, ["4"]),
        # A model that repeats its question really wrote it.
        ({**legacy("2+2=4", None, None, prompt_tokens=4, completion_tokens=5), "prompt": "2+2="}, ["2+2=4"]),
        (legacy("2+2=4", list("2+2=4"), [-1.0] * 5, prompt_tokens=4, completion_tokens=5), ["2+2=4"]),
        # Its first log-prob may be null without any prompt in front.
        (legacy("2+2=4", list("2+2=4"), [None, *[-1.0] * 4], prompt_tokens=9, completion_tokens=5), ["2+2=4"]),
    ],
)
def test_where_the_prompt_ends(tmp_path: Path, record: dict[str, Any], completion: list[str]) -> None:
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", {"model": "m", **record}))
    assert [row["completion"] for row in rows] == completion
    assert bool(report.notes["with the prompt in front (echo), which was cut off"]) == (completion != ["2+2=4"])
    for row in rows:
        assert row["tokens"] is None or "".join(row["tokens"]) == row["completion"]


def test_an_echo_without_an_end_is_refused_and_a_scored_prompt_is_no_sample(tmp_path: Path) -> None:
    unknown = legacy("2+2=4", list("2+2=4"), [None, *[-1.0] * 4])
    refused(tmp_path, jsonl(tmp_path / "a.jsonl", unknown), "nothing says where it ends: ask the server without echo")
    scored = legacy("2+2=", list("2+2="), [None, *[-1.0] * 3], prompt_tokens=4, completion_tokens=0)
    refused(tmp_path, jsonl(tmp_path / "b.jsonl", scored), "1 completions of which only the prompt was scored")


# ---- reasoning in a field of its own


@pytest.mark.parametrize(
    ("reasoning", "content", "text"),
    [
        ("hm", "4", "<think>\nhm\n</think>\n\n4"),
        ("hm", "", "<think>\nhm"),
        ("hm", None, "<think>\nhm"),
        ("", "4", "4"),
        (None, "4", "4"),
        (None, None, ""),
    ],
)
def test_reasoning_and_content_are_one_text(
    tmp_path: Path, reasoning: str | None, content: str | None, text: str
) -> None:
    assert join_reasoning(reasoning, content) == text
    for field in ("reasoning_content", "reasoning"):
        record = chat({"role": "assistant", "content": content, field: reasoning})
        [row], _ = run_import(tmp_path / field, jsonl(tmp_path / f"{field}.jsonl", record))
        assert row["completion"] == text


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [
        (["<think>", "\n", "hm", "\n", "</think>", "\n\n", "4", "<|im_end|>"], True),
        (["hm", "\n", "</think>", "\n\n", "4"], True),  # the tag was the prompt's
        (["h", "\ufffd", "\ufffd", "\n", "</think>", "\n\n", "4"], True),
        (["4"], False),  # the answer's alone
        (["\n\n", "4"], False),
    ],
)
def test_log_probs_over_reasoning_and_answer(tmp_path: Path, tokens: list[str], kept: bool) -> None:
    message = {"role": "assistant", "content": "4", "reasoning_content": "h→" if "\ufffd" in tokens else "hm"}
    record = chat(message, [place(token, -0.5, -1.5) for token in tokens])
    [row], report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", record))
    assert (row["tokens"] is not None) == kept
    said = report.notes["whose log-probs do not cover the text with its reasoning, kept without them"]
    assert said == (0 if kept else 1)
    [run] = load_traces(tmp_path / "out", vocabulary=1000)
    assert (run.traces[0].tokens is not None) == kept


def test_inspect_reasoning_is_put_together_from_attachments(tmp_path: Path) -> None:
    parts = [{"type": "reasoning", "reasoning": "attachment://abc"}, {"type": "text", "text": "4"}]
    sample = {"id": 1, "epoch": 1, "input": "2+2", "output": {"choices": [{"message": {"content": parts}}]}}
    log = {
        "eval": {"task": "t", "model": "m"},
        "status": "success",
        "samples": [{**sample, "attachments": {"abc": "hm"}}],
    }
    (tmp_path / "a.json").write_text(json.dumps(log))
    [row], _ = run_import(tmp_path, tmp_path / "a.json")
    assert row["completion"] == "<think>\nhm\n</think>\n\n4"


# ---- what is no text and no log-prob


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (legacy(None, None, None), "the completion is None: it must be text"),
        (legacy(["a"], None, None), r"the completion is \['a'\]: it must be text"),
        (chat({"content": 3}), "the completion is 3: it must be text"),
        (legacy("ab", ["a", "b"], [-1.0]), "2 tokens, 1 log-probs: the file is inconsistent"),
        (legacy("ab", ["a", "b"], [-1.0, -1.0], [{"a": -1.0}]), "2 tokens, 2 log-probs and 1 lists of candidates"),
        (legacy("ab", ["a", "b"], [-1.0, "x"]), "the log-prob of token 'b' is 'x': it must be a number"),
        (legacy("ab", ["a", 3], [-1.0, -1.0]), "a token is 3: it must be text"),
        (legacy("ab", ["a", "b"], [-1.0, [-1.0]]), "the log-prob of token 'b' is"),
        (legacy("ab", ["a", "b"], [-1.0, 10**400]), "above 0: these are raw logits"),
        ({"choices": [{"message": {"content": "a"}}, 3.5]}, "not of the format openai"),
        ({"problem_id": "p", "completion": {"a": 1}}, "the completion is {'a': 1}: it must be text or messages"),
        ({"problem_id": "p", "completion": True}, "the completion is True"),
        ({"problem_id": "p", "completion": [["a"], "b"]}, r"the completion is \['a'\]: it must be text"),
        ({"problem_id": "p", "completion": "a", "tokens": ["a"], "logprobs": [-1.0, -2.0]}, "differ in length"),
        ({"problem_id": "p", "completion": "a", "tokens": "a", "logprobs": [-1.0]}, "tokens is 'a': it must be a list"),
        ({"problem_id": "p", "completion": "a", "tokens": ["a"], "logprobs": [2.5]}, "above 0: these are raw logits"),
        ({"problem_id": "p", "completion": "a", "tokens": ["a"], "logprobs": ["x"]}, "it must be a number"),
    ],
)
def test_what_is_no_text_or_log_prob_is_refused(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    refused(tmp_path, jsonl(tmp_path / "a.jsonl", record), message)


def test_null_completions_of_plain_files_are_left_out_and_said(tmp_path: Path) -> None:
    lines = [{"prompt": "Q", "completion": [None, "b", ""]}, {"prompt": "R", "completion": None}]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *lines))
    # An empty text is one: the model said nothing.
    assert [row["completion"] for row in rows] == ["b", ""]
    assert report.dropped == {"samples without a completion and without a verdict": 2}


@pytest.mark.parametrize("content", ['{"choices": 3.5}', '{"choices": [3.5]}', '{"candidates": [1]}', '{"eval": 3}'])
def test_known_fields_with_other_values_are_of_no_known_format(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    refused(tmp_path, tmp_path / "a.json", "is of no known format")


def test_names_from_files_print_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = {"run": "\x1b[2Jrun\x07", "problem_id": "p\u202e", "completion": "a", "\x1b[31mfield": 1, "correct": True}
    _, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", line))
    echo(imported_file(report))
    said = capsys.readouterr().out
    assert "⟨U+001B⟩[2Jrun⟨U+0007⟩" in said
    assert "⟨U+001B⟩[31mfield" in said
    twice = jsonl(tmp_path / "b.jsonl", {**line, "sample_id": 0}, {**line, "sample_id": 0})
    complain(refused(tmp_path, twice, "is there twice", run="b"))
    assert all(c.isprintable() or c == "\n" for c in said + capsys.readouterr().err)


def test_tables_without_any_candidates_have_no_entropies(tmp_path: Path) -> None:
    row = {"run": "r", "model": "m", "problem_id": "p", "sample_id": 0, "completion": "ab", "tokens": ["a", "b"]}
    write_shard(tmp_path, "a", [{**row, "logprobs": [-1.0, -1.0], "top_logprobs": [[], None]}])
    [run] = load_traces(tmp_path, vocabulary=1000)
    assert run.traces[0].tokens is None
    write_shard(tmp_path, "b", [{**row, "sample_id": 1, "top_logprobs": [[{"token": "a", "logprob": 2.0}], []]}])
    with pytest.raises(InputError, match="above 0"):
        load_traces(tmp_path, vocabulary=1000)


def test_the_sampled_token_written_into_its_own_list_again_is_no_raw_logit(tmp_path: Path) -> None:
    """Twice 0.9 is more than 1, and yet one candidate; two of one text with values of their own are two."""
    twice = place("a", math.log(0.9), math.log(0.05))
    twice["top_logprobs"].append({"token": "a", "logprob": math.log(0.9)})
    run_import(tmp_path, jsonl(tmp_path / "twice.jsonl", chat({"content": "a"}, [twice])))
    low, high = entropies(tmp_path / "out")
    true = -(0.9 * math.log(0.9) + 0.05 * math.log(0.05) + 0.05 * math.log(0.05))  # the rest on one token
    assert low[0] <= true <= high[0]
    twice["top_logprobs"][-1]["logprob"] = math.log(0.8)
    refused(tmp_path, jsonl(tmp_path / "raw.jsonl", chat({"content": "a"}, [twice])), "raw logits")
