"""Teacher forcing against the model's own logits in float64, on families whose heads differ; and what a kill leaves."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import tokenizer

from forkwise.embedded import EMBEDDED_MODEL
from forkwise.errors import InputError
from forkwise.explore.teacher import (
    Item,
    Scorer,
    cross_logprobs,
    load_scorer,
    write_entropies,
)
from forkwise.explore.tokenisation import completion_ids, prompt_ids
from forkwise.samples import read_samples, write_shard
from forkwise.sampling.generate import Sampling, sample_problem
from forkwise.tasks import load_task

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "eos_token_id": 0}


ENCODERS = {
    "bert": transformers.BertConfig,
    "roberta": transformers.RobertaConfig,
    "electra": transformers.ElectraConfig,
}


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    if family == "gpt2":
        config = transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, initializer_range=0.5)
        return transformers.GPT2LMHeadModel(config).eval()
    if family == "opt":  # projects its hidden states
        config = transformers.OPTConfig(**SMALL, ffn_dim=16, word_embed_proj_dim=8, init_std=0.5)
        return transformers.OPTForCausalLM(config).eval()
    if family == "gemma2":  # caps its logits softly
        config = transformers.Gemma2Config(
            **SMALL, intermediate_size=16, num_key_value_heads=1, head_dim=8, final_logit_softcapping=2.0,
            initializer_range=0.5,
        )  # fmt: skip
        return transformers.Gemma2ForCausalLM(config).eval()
    if family == "mpt":  # its config has scales that it does not use
        config = transformers.MptConfig(
            vocab_size=40, d_model=16, n_layers=2, n_heads=2, max_seq_len=64, logit_scale=0.5, initializer_range=0.5
        )
        return transformers.MptForCausalLM(config).eval()
    if family in ENCODERS:  # have layers between the hidden states and the head; electra's head has another width
        config = ENCODERS[family](**SMALL, intermediate_size=16, is_decoder=True, initializer_range=0.5)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            model.get_output_embeddings().bias.normal_()
        return model
    config = transformers.LlamaConfig(**SMALL, intermediate_size=16, num_key_value_heads=2, initializer_range=0.5)
    return transformers.LlamaForCausalLM(config).eval()


class Shifted(transformers.LlamaForCausalLM):  # type: ignore[misc]
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = 3 * torch.atan(output.logits)
        return output


def reference(model: Any, item: Item) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        logits = model(torch.tensor([item.prompt + item.completion])).logits[0, len(item.prompt) - 1 : -1]
    p = torch.log_softmax(logits.double() / item.temperature, -1)
    chosen = p[torch.arange(len(item.completion)), torch.tensor(item.completion)]
    return chosen.numpy(), -(p.exp() * p).sum(-1).numpy()


FAMILIES = ["llama", "gpt2", "opt", "mpt", "gemma2", *ENCODERS]


@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize(("family", "tiled"), [*((family, True) for family in FAMILIES), ("shifted", False)])
def test_scores_are_those_of_the_logits(family: str, tiled: bool, budget: int) -> None:
    model = tiny("llama" if family == "shifted" else family)
    if family == "shifted":  # its logits are no scaled or softly capped products
        model.__class__ = Shifted
    scorer = Scorer(model, None, budget=budget)
    rng = np.random.default_rng(0)
    items = [
        Item(rng.integers(1, 40, p).tolist(), rng.integers(1, 40, c).tolist(), t)
        for p, c, t in [(3, 9, 1.0), (1, 1, 1.0), (7, 4, 0.6), (2, 20, 1.3), (5, 5, 1.0)]
    ]
    for item, scores in zip(items, scorer.score(items), strict=True):
        logprob, entropy = reference(model, item)
        np.testing.assert_allclose(scores.logprobs, logprob, atol=2e-5)
        np.testing.assert_allclose(scores.entropies, entropy, atol=2e-5)
    assert (scorer._head is not None) is tiled
    assert (scorer.full_logits is None) is tiled


@pytest.mark.parametrize("family", ENCODERS)
def test_a_model_that_sees_what_follows_is_refused(family: str) -> None:
    config = tiny(family).config
    config.is_decoder = False
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(InputError, match=f"{type(model).__name__} sees the tokens that follow .* set is_decoder"):
        Scorer(model, None).score([Item([3, 4, 5], [6, 7, 8])])


@pytest.mark.parametrize("family", ["gpt2", "bert", "roberta"])
def test_what_a_model_cannot_hold_is_said(family: str) -> None:
    config = tiny(family).config
    config.max_position_embeddings = 12
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    scorer = Scorer(model, None)
    assert len(scorer.score([Item([3, 4], [5] * 7)])[0].entropies) == 7
    with pytest.raises(InputError, match=r"has 21 tokens, and .* allows 12 in all.*: shorten it"):
        scorer.score([Item([3, 4], [5] * 20)])
    with pytest.raises(InputError, match=r"has the token 40 .*, and the model has 40 rows"):
        Scorer(model, tokenizer()).score([Item([3, 4], [5, 40])])


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return load_scorer(str(EMBEDDED_MODEL), device="cpu")


@pytest.fixture(scope="module")
def rows(scorer: Scorer) -> list[dict[str, Any]]:
    """Samples of the embedded model with the entropies that sampling saw, at two temperatures."""
    task = load_task("countdown:4")
    made = []
    for temperature, run in ((1.0, "hot"), (0.7, "warm")):
        for problem in task.problems("test", 3):
            sampling = Sampling(temperature=temperature, max_tokens=60)
            made += sample_problem(
                scorer.model, scorer.tokenizer, problem, task, 30, run=run, seed=1, sampling=sampling, traces=30
            )
    return made


def test_teacher_forcing_gives_what_sampling_saw(tmp_path: Path, scorer: Scorer, rows: list[dict[str, Any]]) -> None:
    bare = [{k: v for k, v in row.items() if k not in ("entropies", "logprobs", "tokens")} for row in rows]
    write_shard(tmp_path / "s", "a", bare)
    forced = write_entropies(tmp_path / "s", tmp_path / "out", scorer, name="embedded")
    assert (forced.samples, forced.computed) == (len(rows), len(rows))
    again = {(r["run"], r["problem_id"], r["sample_id"]): r for r in read_samples(tmp_path / "out").to_pylist()}
    assert len(again) == len(rows)
    for row in rows:
        ours = again[row["run"], row["problem_id"], row["sample_id"]]
        assert ours["tokens"] == row["tokens"]
        np.testing.assert_allclose(ours["entropies"], row["entropies"], atol=2e-4)
        np.testing.assert_allclose(ours["logprobs"], row["logprobs"], atol=2e-4)
        assert ours["correct"] == row["correct"]


def test_text_alone_is_tokenised_and_ends_where_it_stopped(
    tmp_path: Path, scorer: Scorer, rows: list[dict[str, Any]]
) -> None:
    drop = ("entropies", "logprobs", "tokens", "token_ids")
    write_shard(tmp_path / "s", "a", [{k: v for k, v in row.items() if k not in drop} for row in rows])
    write_entropies(tmp_path / "s", tmp_path / "out", scorer, name="embedded")
    again = {(r["run"], r["problem_id"], r["sample_id"]): r for r in read_samples(tmp_path / "out").to_pylist()}
    for row in rows:
        assert again[row["run"], row["problem_id"], row["sample_id"]]["token_ids"] == row["token_ids"]


def test_the_same_call_continues_and_gives_the_same_bytes(
    tmp_path: Path, scorer: Scorer, rows: list[dict[str, Any]]
) -> None:
    write_shard(tmp_path / "s", "a", rows[:150])
    write_shard(tmp_path / "s", "b", rows[150:])
    write_entropies(tmp_path / "s", tmp_path / "whole", scorer, name="embedded")
    shards = sorted(path.name for path in (tmp_path / "whole").glob("*.parquet"))
    assert len(shards) == 4  # 64 + 64 + 22, and 30
    write_entropies(tmp_path / "s", tmp_path / "cut", scorer, name="embedded")
    (tmp_path / "cut" / shards[1]).unlink()
    (tmp_path / "cut" / shards[3]).unlink()
    forced = write_entropies(tmp_path / "s", tmp_path / "cut", scorer, name="embedded")
    assert forced.computed == 64 + 30
    for shard in shards:
        assert pq.read_table(tmp_path / "cut" / shard).equals(pq.read_table(tmp_path / "whole" / shard))


_SLOWLY = """
import sys, time
from pathlib import Path
from forkwise.explore import teacher
write = teacher.write_shard
def slowly(*args):
    done = write(*args)
    time.sleep(1.5)
    return done
teacher.write_shard = slowly
scorer = teacher.load_scorer("embedded", device="cpu")
teacher.write_entropies(Path(sys.argv[1]), Path(sys.argv[2]), scorer, name="embedded")
"""


def test_a_kill_leaves_whole_shards(tmp_path: Path, scorer: Scorer, rows: list[dict[str, Any]]) -> None:
    write_shard(tmp_path / "s", "a", rows)
    command = [sys.executable, "-c", _SLOWLY, str(tmp_path / "s"), str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "out").glob("*.parquet")) and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    _, errors = process.communicate()
    shards = len(list((tmp_path / "out").glob("*.parquet")))
    assert 1 <= shards < 3, errors
    forced = write_entropies(tmp_path / "s", tmp_path / "out", scorer, name="embedded")
    assert 0 < forced.computed < len(rows)
    assert read_samples(tmp_path / "out").num_rows == len(rows)


@pytest.mark.parametrize("drop", [(), ("token_ids", "tokens")])
def test_another_tokenizer_is_refused_and_nothing_written(
    tmp_path: Path, rows: list[dict[str, Any]], drop: tuple[str, ...]
) -> None:
    write_shard(tmp_path / "s", "a", [{k: v for k, v in row.items() if k not in drop} for row in rows[:3]])
    with pytest.raises(InputError, match="the model's tokenizer is not the one of the samples"):
        write_entropies(tmp_path / "s", tmp_path / "out", Scorer(tiny("llama"), tokenizer()), name="other")
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_tokens_cut_otherwise_are_refused(scorer: Scorer) -> None:
    row = {"completion": "try 1 + 2", "tokens": ["try", "1 +", "2"]}
    with pytest.raises(InputError, match="cuts the text into 4 tokens that are not the 3 stored ones"):
        completion_ids(scorer.tokenizer, row, "here")


def test_a_null_among_the_stored_tokens_is_cut_anew(scorer: Scorer) -> None:
    row = {"completion": "try 1 + 2", "tokens": ["try", None, "2"]}
    assert completion_ids(scorer.tokenizer, row, "here") == scorer.tokenizer("try 1 + 2")["input_ids"]


def test_other_entropies_in_the_folder_are_refused(tmp_path: Path, scorer: Scorer, rows: list[dict[str, Any]]) -> None:
    write_shard(tmp_path / "s", "a", rows[:2])
    write_entropies(tmp_path / "s", tmp_path / "out", scorer, name="embedded")
    with pytest.raises(InputError, match="holds entropies with other settings .temperature = no value, not 2.0"):
        write_entropies(tmp_path / "s", tmp_path / "out", scorer, name="embedded", temperature=2.0)
    write_shard(tmp_path / "s2", "a", rows[2:4])
    with pytest.raises(InputError, match="holds entropies with other settings .samples ="):
        write_entropies(tmp_path / "s2", tmp_path / "out", scorer, name="embedded")
    with pytest.raises(InputError, match="holds the samples themselves"):
        write_entropies(tmp_path / "s", tmp_path / "s", scorer, name="embedded")


def test_prompts_that_are_conversations_need_a_template(scorer: Scorer) -> None:
    with pytest.raises(InputError, match="no chat template"):
        prompt_ids(scorer.tokenizer, '[{"role": "user", "content": "hi"}]')
    assert prompt_ids(scorer.tokenizer, "use 1 2") == scorer.tokenizer("use 1 2")["input_ids"]


def test_cross_log_probs_are_those_of_each_pair(scorer: Scorer) -> None:
    ids = scorer.tokenizer
    prompts = [ids(p)["input_ids"] for p in ("use 3 5 8 13 to make 24 :", "use 1 2 3 4 to make 10 :")]
    responses = [ids(r)["input_ids"] for r in ("try 3 + 5 = 8", "maybe 1 + 2 = 3 , check no")]
    matrix = cross_logprobs(scorer, prompts, responses)
    for i, response in enumerate(responses):
        for j, prompt in enumerate(prompts):
            expected, _ = reference(scorer.model, Item(prompt, response))
            assert matrix[i, j] == pytest.approx(expected.sum(), abs=1e-3)
    assert matrix[0, 0] > matrix[0, 1]
    assert matrix[1, 1] > matrix[1, 0]
