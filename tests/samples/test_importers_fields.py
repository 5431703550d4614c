"""A field of another type than its format's is refused in a sentence that names it, or what is left out is said."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from importing import jsonl, refused, run_import
from test_importers_damaged import RECORDS, said

from forkwise.samples.fields import WrongField, checked, objects, optional, required
from forkwise.samples.importers import Options, import_files

PYTHON = re.compile(
    r"\w+Error\b|NoneType|'(int|str|list|dict|float|bool)' object|object has no|unhashable|iterable|subscript|indices|"
    r"with type|tried to convert"
)


def changed(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The record with another value at a path such as `choices.0.message`."""
    record = copy.deepcopy(record)
    *parents, last = (int(key) if key.isdecimal() else key for key in path.split("."))
    owner: Any = record
    for key in parents:
        owner = owner[key]
    owner[last] = value
    return record


CHAT = RECORDS["openai"][1]
TEXT = RECORDS["openai"][0]
BATCH = {"custom_id": "a", "response": {"body": {"choices": [{"message": {"content": "x"}}], "usage": {}}}}
PLAIN = {"prompt": "Q", "completion": "x"}
LM_EVAL = RECORDS["lm-eval"][0]
OLD_LM_EVAL = {**LM_EVAL, "arguments": [["Q", {"temperature": 0.5}]]}
INSPECT, GEMINI, OLLAMA = RECORDS["inspect"][0], RECORDS["gemini"][0], RECORDS["ollama"][0]
LOGPROBS = "choices.0.logprobs"


@pytest.mark.parametrize(
    ("name", "record", "path", "value", "message"),
    [
        ("openai", CHAT, LOGPROBS, [1], "'choices[0].logprobs' should be an object, but is a list"),
        ("openai", CHAT, LOGPROBS, 0, "'choices[0].logprobs' should be an object, but is 0"),
        ("openai", CHAT, LOGPROBS, {"a": 1}, "'choices[0].logprobs' has neither 'content' nor 'tokens'"),
        ("openai", CHAT, f"{LOGPROBS}.content", 3, "'choices[0].logprobs.content' should be a list, but is 3"),
        ("openai", CHAT, f"{LOGPROBS}.content.1", 3, "'choices[0].logprobs.content[1]' should be an object, but is 3"),
        (
            "openai",
            CHAT,
            f"{LOGPROBS}.content.1",
            {"token": "a"},
            "[1].logprob' should be a number, but is missing",
        ),
        ("openai", CHAT, f"{LOGPROBS}.content.1.top_logprobs", {}, "content[1].top_logprobs' should be a list"),
        ("openai", CHAT, f"{LOGPROBS}.content.1.top_logprobs.0", 5, "top_logprobs[0]' should be an object, but is 5"),
        ("openai", TEXT, f"{LOGPROBS}.tokens", "ab", "'choices[0].logprobs.tokens' should be a list, but is \"ab\""),
        ("openai", TEXT, f"{LOGPROBS}.token_logprobs", None, "logprobs.token_logprobs' should be a list, but is null"),
        ("openai", TEXT, f"{LOGPROBS}.top_logprobs.1", 3, "logprobs.top_logprobs[1]' should be an object, but is 3"),
        ("openai", CHAT, "choices.0.finish_reason", 3, "'choices[0].finish_reason' should be text, but is 3"),
        ("openai", CHAT, "choices.0.message", 3, "'choices[0].message' should be an object, but is 3"),
        ("openai", CHAT, "choices.0.message.reasoning", {}, "'choices[0].message.reasoning' should be text, but is an"),
        ("openai", CHAT, "choices.0.message.content", [3], "'choices[0].message.content[0]' should be an object"),
        ("openai", CHAT, "choices.0.message.content", [{"text": 3}], "message.content[0].text' should be text, but is"),
        ("openai", CHAT, "choices", 3, "'choices' should be a list, but is 3"),
        ("openai", CHAT, "choices.0", 3.5, "'choices[0]' should be an object, but is 3.5"),
        ("openai", CHAT, "usage", 3, "'usage' should be an object, but is 3"),
        ("openai", TEXT, "usage.completion_tokens", "twelve", "'usage.completion_tokens' should be a whole number"),
        (
            "openai",
            TEXT,
            "usage.prompt_tokens",
            2**70,
            "'usage.prompt_tokens' should be a whole number, but is 11",
        ),
        ("openai", CHAT, "model", 3, "'model' should be text, but is 3"),
        ("openai", CHAT, "messages", 3, "'messages' should be text or a list of messages, but is 3"),
        ("openai", CHAT, "messages.0", "Q", "'messages[0]' should be an object, but is \"Q\""),
        ("openai", CHAT, "messages.0.content", 3, "'messages[0].content' should be text or a list of parts, but is 3"),
        ("openai", CHAT, "prompt", 3, "'prompt' should be text, but is 3"),
        ("openai", TEXT, "prompt", ["P", "Q"], "this response is for 2 prompts at once"),
        ("openai", BATCH, "response", 3, "'response' should be an object, but is 3"),
        ("openai", BATCH, "response.body", True, "'response.body' should be an object, but is true"),
        ("openai", BATCH, "response.body.usage", "x", "'response.body.usage' should be an object, but is \"x\""),
        ("gemini", GEMINI, "candidates.0.finishReason", 3, "'candidates[0].finishReason' should be text, but is 3"),
        ("gemini", GEMINI, "candidates.0.content.parts.0.text", 3, "content.parts[0].text' should be text, but is 3"),
        ("gemini", GEMINI, "candidates.0.logprobsResult", [1], "logprobsResult' should be an object, but is a list"),
        ("gemini", GEMINI, "candidates.0.logprobsResult.chosenCandidates.0.tokenId", "x", "tokenId' should be a whole"),
        ("gemini", GEMINI, "usageMetadata", 3, "'usageMetadata' should be an object, but is 3"),
        ("gemini", GEMINI, "prompt", 3, "'prompt' should be text, but is 3"),
        ("ollama", OLLAMA, "done_reason", 3, "'done_reason' should be text, but is 3"),
        ("ollama", OLLAMA, "eval_count", "x", "'eval_count' should be a whole number, but is \"x\""),
        ("ollama", OLLAMA, "message", 3, "'message' should be an object, but is 3"),
        ("ollama", {**OLLAMA, "message": {"content": "x"}}, "message.thinking", 3, "'message.thinking' should be text"),
        ("ollama", OLLAMA, "logprobs", 3, "'logprobs' should be a list, but is 3"),
        ("lm-eval", LM_EVAL, "arguments", 3, "'arguments' should be an object or a list, but is 3"),
        ("lm-eval", LM_EVAL, "arguments.gen_args_0.arg_1", 3, "'arguments.gen_args_0.arg_1' should be an object"),
        ("lm-eval", OLD_LM_EVAL, "arguments.0.1.temperature", "x", "'arguments[0][1].temperature' should be a number"),
        ("lm-eval", LM_EVAL, "resps", 3, "'resps' should be a list, but is 3"),
        ("lm-eval", LM_EVAL, "filtered_resps", 3, "'filtered_resps' should be a list, but is 3"),
        ("lm-eval", LM_EVAL, "metrics", 3, "'metrics' should be a list, but is 3"),
        ("inspect", INSPECT, "samples.0.epoch", "x", "'samples[0].epoch' should be a whole number, but is \"x\""),
        ("inspect", INSPECT, "samples.0.id", None, "'samples[0].id' should be text or a whole number, but is null"),
        ("inspect", INSPECT, "samples.0", 3, "'samples[0]' should be an object, but is 3"),
        ("inspect", INSPECT, "samples.0.output", 3, "'samples[0].output' should be an object, but is 3"),
        (
            "inspect",
            INSPECT,
            "samples.0.output.choices.0.message.content",
            3,
            "content' should be text or a list of",
        ),
        ("inspect", INSPECT, "samples.0.output.choices.0.stop_reason", 3, "choices[0].stop_reason' should be text"),
        ("inspect", INSPECT, "samples.0.output.choices.0.logprobs", 3, "choices[0].logprobs' should be an object"),
        ("inspect", INSPECT, "samples.0.scores", 3, "'samples[0].scores' should be an object, but is 3"),
        ("qwen-math", RECORDS["qwen-math"][0], "score", 3, "'score' should be a list, but is 3"),
        ("qwen-math", RECORDS["qwen-math"][0], "question", 3, "'question' should be text, but is 3"),
        (
            "grade-school-math",
            RECORDS["grade-school-math"][0],
            "6b_finetuning",
            3,
            "'6b_finetuning' should be an obj",
        ),
        ("grade-school-math", RECORDS["grade-school-math"][0], "6b_finetuning.solution", 3, "solution' should be text"),
        ("reasoning-gym", RECORDS["reasoning-gym"][0], "results.0", 3, "'results[0]' should be an object, but is 3"),
        ("reasoning-gym", RECORDS["reasoning-gym"][0], "categories", 3, "'categories' should be a list, but is 3"),
        ("verl", RECORDS["verl"][0], "step", "x", "'step' should be a whole number, but is \"x\""),
        ("verl", RECORDS["verl"][0], "pred", {"a": 1}, "the answer is {'a': 1}: it must be text"),
        ("trl", RECORDS["trl"][0], "advantage", "x", "'advantage' should be a number, but is \"x\""),
        ("plain", PLAIN, "sampling", 3, "'sampling' should be an object, but is 3"),
        ("plain", PLAIN, "finish_reason", 3, "'finish_reason' should be text, but is 3"),
        ("plain", PLAIN, "prompt", 3, "'prompt' should be text or a list of messages, but is 3"),
        ("plain", PLAIN, "prompt", [3], "'prompt[0]' should be an object, but is 3"),
        ("plain", PLAIN, "model", [1], "the model is [1]: it must be text"),
        ("plain", PLAIN, "problem_id", {"a": 1}, "problem_id is {'a': 1}: it must be text or a number"),
        ("plain", PLAIN, "run", [1], "run is [1]: it must be text or a number"),
        ("plain", PLAIN, "token_ids", ["x"], "entry 0 of token_ids is of the wrong type: it must be a whole number"),
        ("plain", PLAIN, "tokens", ["x", 3], "entry 1 of tokens is of the wrong type: it must be text"),
        ("plain", PLAIN, "entropies", ["x"], "entry 0 of entropies is of the wrong type: it must be a number"),
        ("plain", PLAIN, "rewards", [{"name": "r", "value": "x"}], "'rewards[0].value' should be a number, but is"),
        ("plain", PLAIN, "rewards", [3], "'rewards[0]' should be an object, but is 3"),
        (
            "plain",
            {**PLAIN, "tokens": ["x"]},
            "top_logprobs",
            [[{"token": "x"}]],
            "top_logprobs[0][0].logprob' should",
        ),
    ],
)
def test_a_field_of_another_type(
    tmp_path: Path, name: str, record: dict[str, Any], path: str, value: Any, message: str
) -> None:
    file = jsonl(tmp_path / "a.jsonl", record, changed(record, path, value))
    sentence = refused(tmp_path, file, re.escape(message), format_=name, threshold=1.0)
    assert "line 2: " in sentence
    assert not PYTHON.search(sentence)


def places(value: Any, path: str = "") -> Iterator[str]:
    """The paths to everything in a record; of a list, to its first two entries."""
    entries = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, entry in entries:
        yield f"{path}{key}"
        yield from places(entry, f"{path}{key}.")


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_no_sentence_has_words_of_the_language_that_it_was_written_in(tmp_path: Path, name: str) -> None:
    sentences = 0
    for record in RECORDS[name]:
        for i, path in enumerate(places(record)):
            if path.count(".") > 1 and i % 4:  # deep ones are many
                continue
            file = jsonl(tmp_path / "a.jsonl", changed(record, path, (3, "x", [1], {"a": 1}, None)[i % 5]))
            work = import_files([file], tmp_path / f"out{i}-{sentences}", format_=name, options=Options(threshold=1.0))
            sentence = said(lambda work=work: list(work))
            sentences += sentence is not None
            assert not PYTHON.search(sentence or ""), path
    assert sentences


def test_unknown_reasons_to_finish_are_kept_and_said(tmp_path: Path) -> None:
    reasons = ["stop", "EOS", "max_tokens", "content_filter", None, "", "weird", "odder"]
    lines = [changed(CHAT, "choices.0.finish_reason", reason) for reason in reasons]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *lines))
    kept = [None, None, "content_filter", "length", "odder", "stop", "stop", "weird"]
    assert sorted((row["finish_reason"] for row in rows), key=str) == sorted(kept, key=str)
    assert report.notes == {"with a finish reason that is not known here, such as 'weird', kept as it is": 2}


def test_golds_that_are_no_text_are_said(tmp_path: Path) -> None:
    lines = [{**RECORDS["verl"][0], "gts": gold} for gold in ("1", ["1"], ["1", "2"], {"a": 1}, None)]
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", *lines))
    assert sorted(row["gold"] or "-" for row in rows) == ["-", "-", "-", "1", "1"]
    assert report.notes == {"whose gold answer is neither text nor a number, kept without it": 2}


def test_token_ids_for_a_prompt_are_none_but_one_prompt_in_a_list_is(tmp_path: Path) -> None:
    rows, _ = run_import(
        tmp_path, jsonl(tmp_path / "a.jsonl", *({**TEXT, "prompt": prompt} for prompt in ([5, 6], ["2+2="], "2+2=")))
    )
    assert sorted(row["prompt"] or "-" for row in rows) == ["-", "2+2=", "2+2="]


def test_responses_without_a_choice_are_said(tmp_path: Path) -> None:
    rows, report = run_import(tmp_path, jsonl(tmp_path / "a.jsonl", CHAT, {**CHAT, "choices": []}))
    assert len(rows) == 1
    assert report.dropped == {"responses without a choice": 1}


def test_fields() -> None:
    owner = {"a": 3, "b": None, "c": [{}, 3], "d": 3.0, "e": True, "f": 2**63, "g": "x" * 99}
    assert required(owner, "a", int) == 3
    assert required(owner, "d", int) == 3
    assert optional(owner, "b", dict) is optional(owner, "z", dict) is None
    assert objects(owner, "b") == []
    for work, message in (
        (lambda: required(owner, "b", str, "o."), "'o.b' should be text, but is null"),
        (lambda: required(owner, "z", str, "o."), "'o.z' should be text, but is missing"),
        (lambda: optional(owner, "e", int), "'e' should be a whole number, but is true"),
        (lambda: optional(owner, "f", int), "'f' should be a whole number, but is 9223372036854775808"),
        (lambda: objects(owner, "c", "o."), "'o.c[1]' should be an object, but is 3"),
        (lambda: required(3, "a", int, "o."), "'o' should be an object, but is 3"),
        (lambda: optional(owner, "g", list), f"'g' should be a list, but is \"{'x' * 40}\""),
        (lambda: checked(float("nan"), int, "n"), "'n' should be a whole number, but is nan"),
        (lambda: checked("\x1b", list, "n"), r"'n' should be a list, but is \"\\u001b\""),
    ):
        with pytest.raises(WrongField) as caught:
            work()
        assert str(caught.value) == message.replace("\\\\", "\\").replace('\\"', '"')
    assert json.dumps(str(caught.value)).isascii()


def test_clusters_are_texts_and_can_be_mapped(tmp_path: Path) -> None:
    record = {"problem_id": "p", "completion": "1", "correct": True}
    rows, _ = run_import(tmp_path / "a", jsonl(tmp_path / "a.jsonl", {**record, "cluster": 7}))
    assert [row["cluster"] for row in rows] == ["7"]
    file = jsonl(tmp_path / "b.jsonl", {**record, "topic": "algebra"})
    rows, _ = run_import(tmp_path / "b", file, columns={"cluster": "topic"})
    assert [row["cluster"] for row in rows] == ["algebra"]
    refused(tmp_path / "c", jsonl(tmp_path / "c.jsonl", {**record, "cluster": ["a"]}), "cluster is .*must be text or a")
