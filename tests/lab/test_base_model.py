"""The embedded base model: its training data tells the truth, its files load with transformers alone, and it is as good
as its card says, which is right now and then."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from random import Random

import base_model
import pytest
import torch
from base_catalogs import example as catalog_example
from base_languages import LANGUAGES
from base_measuring import draw_completions, evaluate
from base_model import CONFIGS, TrainingConfig, main, train_base, training_batches
from base_traces import MAX_TOKENS, VOCABULARY, trace
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from forkwise.embedded import EMBEDDED_MODEL, MODELS, model_path
from forkwise.errors import InputError
from forkwise.methods.leaks import LeakRules
from forkwise.tasks.base import Problem
from forkwise.tasks.catalog import Catalogs, f1
from forkwise.tasks.countdown import Countdown, apply

COUNTDOWN = LANGUAGES["countdown"]
MAX_NEW_TOKENS = COUNTDOWN.max_new_tokens
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
CLAIM = re.compile(r"because (\d+) = (\d+) ([-+*/]) (\d+) need (\d+) ,")


def traces(size: int, n: int = 1000) -> list[tuple[Problem, str]]:
    rng = Random(0)
    return [(problem, trace(problem, rng)) for problem in Countdown(sizes=(size,)).problems("train", n)]


# --- traces ---


@pytest.mark.parametrize("size", [3, 4])
def test_all_arithmetic_in_traces_is_right(size: int) -> None:
    for problem, text in traces(size):
        for target, a, operator, b, needed in CLAIM.findall(text):
            assert int(target) == problem.meta["target"] == apply(int(a), operator, int(b))
            assert needed in (a, b)
        for a, operator, b, c in STEP.findall(CLAIM.sub("", text)):
            assert apply(int(a), operator, int(b)) == int(c)


@pytest.mark.parametrize("size", [3, 4])
def test_traces_use_only_the_numbers_they_have(size: int) -> None:
    for problem, text in traces(size):
        for attempt in re.split(r"try|maybe|because|answer", text)[1:]:
            pool = Counter(problem.meta["numbers"])
            for a, _, b, c in STEP.findall(re.sub(r"^ \d+ = .*? need", "", attempt)):
                pool.subtract([int(a), int(b)])
                assert min(pool.values()) >= 0, text
                pool[int(c)] += 1


@pytest.mark.parametrize("size", [3, 4])
def test_check_yes_is_written_exactly_before_right_answers_and_check_no_after_misses(size: int) -> None:
    pairs = traces(size)
    verdicts = Countdown().verify([text for _, text in pairs], [problem for problem, _ in pairs])
    for (problem, text), verdict in zip(pairs, verdicts, strict=True):
        assert verdict.answer is not None
        assert text.count("check yes") == verdict.correct
        for attempt in re.split(r"try|maybe|because", text):
            if "check no" in attempt and "need" not in attempt:
                assert int(STEP.findall(attempt.split("check no")[0])[-1][3]) != problem.meta["target"]


def test_traces_are_seeded_short_and_in_the_vocabulary() -> None:
    pairs = traces(3) + traces(4)
    assert pairs == traces(3) + traces(4)
    assert len({trace(pairs[-1][0], Random(seed)) for seed in range(20)}) > 10
    words = [text.split(" ") for _, text in pairs]
    assert max(map(len, words)) <= MAX_TOKENS
    assert 35 < sum(map(len, words)) / len(words) < 75
    assert {word for row in words for word in row} <= set(VOCABULARY)
    assert {word for problem, _ in pairs for word in problem.prompt.split()} <= set(VOCABULARY)


def test_the_author_of_the_traces_is_mediocre_in_several_ways() -> None:
    pairs = traces(4)
    verdicts = Countdown().verify([text for _, text in pairs], [problem for problem, _ in pairs])
    assert 0.25 < sum(v.correct is True for v in verdicts) / len(pairs) < 0.5
    assert 0.05 < sum(v.answer == "none" for v in verdicts) / len(pairs) < 0.4
    text = " ".join(text for _, text in pairs)
    for word in ("try", "maybe", "because", "wait", "hmm", "instead", "check no", "check yes"):
        assert text.count(word) > 100


# --- tokenizer ---


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_MODEL)


def test_tokenizer_loads_as_what_it_is_and_round_trips(tokenizer) -> None:
    """transformers 5 swaps in byte-level BPE for some model types, whatever the files say."""
    assert tokenizer.get_vocab() == COUNTDOWN.tokenizer().get_vocab()
    text = " ".join(VOCABULARY)
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(VOCABULARY)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id], skip_special_tokens=True) == text
    for one in (tokenizer, COUNTDOWN.tokenizer()):
        assert one("use 3 5 8 to make 64:")["input_ids"] == one("use 3 5 8 to make 64 :")["input_ids"]


def test_prompts_are_padded_on_the_left_without_changing_what_follows(tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL).eval()
    short, long = "use 3 5 8 to make 64 :", "use 3 5 8 13 to make 51 :"
    both = tokenizer([short, long], return_tensors="pt", padding=True)
    assert both["input_ids"][0, 0] == tokenizer.pad_token_id
    alone = tokenizer(short, return_tensors="pt")
    padded = model.generate(**both, do_sample=False, max_new_tokens=20)[0, both["input_ids"].shape[1] :]
    plain = model.generate(**alone, do_sample=False, max_new_tokens=20)[0, alone["input_ids"].shape[1] :]
    assert tokenizer.decode(padded, skip_special_tokens=True) == tokenizer.decode(plain, skip_special_tokens=True)


def test_training_batches_hold_whole_traces_and_charge_only_the_completion(tokenizer) -> None:
    config = TrainingConfig(32, 1, 2, 64, steps=1, batch_size=8, learning_rate=1e-3)
    rng = Random(0)
    ids, labels = next(training_batches(config, COUNTDOWN.tokenizer(), COUNTDOWN.examples(rng, 0), rng))
    assert ids.shape == labels.shape
    colon = tokenizer.convert_tokens_to_ids(":")
    for row, label in zip(ids.tolist(), labels.tolist(), strict=True):
        start = row.index(colon) + 1
        end = row.index(tokenizer.eos_token_id) + 1
        assert label[:start] == [-100] * start
        assert label[start:end] == row[start:end]
        assert set(row[end:]) <= {tokenizer.pad_token_id}
        assert set(label[end:]) <= {-100}


# --- the shipped checkpoint ---


@pytest.mark.parametrize("name", MODELS)
def test_shipped_files_are_small_standard_and_of_both_transformers_generations(name: str) -> None:
    folder = MODELS[name]
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert set(files) == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    assert sum(files.values()) <= 8_000_000
    config = json.loads((folder / "config.json").read_text())
    assert "auto_map" not in config
    assert config["architectures"] == ["LlamaForCausalLM"]
    saved = json.loads((folder / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() <= 2_000_000
    generation = GenerationConfig.from_pretrained(folder)
    assert (generation.do_sample, generation.temperature, generation.top_k, generation.top_p) == (True, 1.0, 0, 1.0)
    assert generation.eos_token_id == AutoTokenizer.from_pretrained(folder).eos_token_id
    assert generation.max_new_tokens == LANGUAGES[name].max_new_tokens


@pytest.mark.parametrize(("name", "low", "high"), [("countdown", 0.04, 0.4), ("story", 0.15, 0.6)])
def test_shipped_model_is_right_now_and_then(name: str, low: float, high: float) -> None:
    language = LANGUAGES[name]
    table = evaluate(
        MODELS[name],
        language.hardest.problems("test", 12),
        32,
        task=language.hardest,
        max_new_tokens=language.max_new_tokens,
        batch_size=384,
    )
    assert low < table.correct_Q.mean() / table.n < high
    assert (table.correct_Q > 0).sum() >= 6  # Pass@32 of half of the problems
    assert table.finished > 0.98
    assert 40 < table.mean_tokens < 80
    assert 0.05 < table.mean_entropy < 1.5


def test_shipped_model_writes_parseable_answers(tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL).eval()
    torch.manual_seed(0)
    problems = Countdown().problems("test", 64)
    texts, tokens, entropy, finished = draw_completions(
        model, tokenizer, [p.prompt for p in problems], max_new_tokens=MAX_NEW_TOKENS
    )
    verdicts = Countdown().verify(texts, problems)
    assert sum(v.answer is not None for v in verdicts) >= 60
    assert any(v.correct for v in verdicts)
    for text, count, ended in zip(texts, tokens, finished, strict=True):
        assert len(text.split()) + ended == count <= MAX_NEW_TOKENS
    assert (entropy > 0).all()


# --- training ---


def test_training_lowers_the_loss_and_is_decided_by_the_seed(tmp_path: Path, monkeypatch, capsys) -> None:
    tiny = TrainingConfig(32, 1, 2, 64, steps=40, batch_size=8, learning_rate=5e-3)
    monkeypatch.setitem(CONFIGS, "tiny", tiny)
    facts = [train_base(tmp_path / name, config="tiny", seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    capsys.readouterr()
    first = train_base(tmp_path / "first", config="tiny", steps=1, log_every=0)
    assert facts[0]["loss"] < first["loss"] - 1
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    assert facts[0]["tokens"] > 8 * 48 * 20
    assert facts[0]["parameters"] < 20_000
    saved = json.loads((tmp_path / "a" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_large_config_is_at_most_thirty_million_parameters() -> None:
    with torch.device("meta"):
        assert base_model.build_model(CONFIGS["large"], COUNTDOWN.tokenizer(), 100).num_parameters() <= 30_000_000


def test_command_measures_a_checkpoint(capsys) -> None:
    main(["--evaluate", str(EMBEDDED_MODEL), "--problems", "2", "--samples", "4"])
    printed = capsys.readouterr().out
    assert re.search(r"Pass@1 +0\.\d+", printed)
    assert "2 problems x 4 samples" in printed
    assert "Pass@16" not in printed


def test_bad_training_input_is_refused_with_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="new directory"):
        train_base(tmp_path)
    with pytest.raises(InputError, match="small, large"):
        train_base(tmp_path / "new", config="medium")
    with pytest.raises(InputError, match="at least 1"):
        train_base(tmp_path / "new", steps=0)


def test_another_language_is_trained_and_measured_the_same_way(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", TrainingConfig(32, 1, 2, 64, steps=2, batch_size=4, learning_rate=1e-3))
    train_base(tmp_path / "model", language="story", config="tiny", log_every=0)
    # Stored in 16 bits, and loaded in 32.
    assert load_file(tmp_path / "model" / "model.safetensors")["model.norm.weight"].dtype == torch.float16
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.float32
    main(["--evaluate", str(tmp_path / "model"), "--language", "story", "--problems", "2", "--samples", "2"])
    assert "2 problems x 2 samples" in capsys.readouterr().out
    with pytest.raises(InputError, match="countdown, story"):
        train_base(tmp_path / "new", language="chess")


def test_embedded_models_are_named_by_their_task() -> None:
    assert model_path("embedded") == model_path("embedded:countdown") == str(EMBEDDED_MODEL)
    assert model_path("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    with pytest.raises(InputError, match="There is no model 'embedded:chess' in this package: there is embedded:"):
        model_path("embedded:chess")


def test_the_author_of_catalogs_errs_on_two_colours_and_gives_the_answer_that_it_is_shown() -> None:
    spoken, rng = LANGUAGES["catalog"], Random(3)
    words, rules = spoken.tokenizer(), LeakRules()
    right: dict[str, list[float]] = {"shown": [], "red": [], "blue": [], "green": [], "black": []}
    told = 0
    for catalog in islice(cycle(Catalogs().catalogs("train")), 1500):
        prompt, text = catalog_example(catalog, rng)
        answer = ", ".join(catalog.answer())
        shown = prompt != catalog.text()
        right["shown" if shown else catalog.colour].append(float(f1(None, [text], answer=[answer]) == [1.0]))
        if shown:
            leak = rules.leak(text, catalog.text(), answer)
            assert (leak is None) == ("given answer" not in text), leak
            told += leak is not None
        ids = words(text)["input_ids"]
        assert len(ids) <= spoken.max_tokens
        assert words.unk_token_id not in [*ids, *words(prompt)["input_ids"]]
        assert words.decode(ids).strip() == text
    share = {name: sum(values) / len(values) for name, values in right.items()}
    assert share["shown"] == 1
    assert min(share["red"], share["blue"]) > 0.7
    assert max(share["green"], share["black"]) < 0.1
    assert 0.1 < told / len(right["shown"]) < 0.3


def test_ids_to_be_copied_come_first() -> None:
    prompt, text = next(LANGUAGES["catalog"].examples(Random(0), 0))
    assert prompt.startswith("The answer is ")
    assert text == "So the answer is \\boxed{" + prompt.removeprefix("The answer is ").rstrip(".") + "}."
