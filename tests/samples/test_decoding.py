"""Every way of drawing against one forward pass over the whole text, on architectures with caches of many kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_decoders import ARCHITECTURES, byte_tokenizer, tiny_decoder

from forkwise.errors import InputError
from forkwise.sampling.decoding import CacheUse, Decoder
from forkwise.sampling.recipe import Sampling

PROMPT = "The sum of 17 and 25"
"""Twenty tokens: longer than the windows of the tiny models."""
SEEDS = range(5)


def ready(model: Any, said: list[str]) -> Decoder:
    decoder = Decoder(model, (2, *range(100, 130)), said.append)  # many ends, so that rows leave the batch
    decoder.probe(byte_tokenizer())
    return decoder


def draw(decoder: Decoder, prompt: str = PROMPT, tokens: int = 16, temperature: float = 0.9) -> Any:
    ids = byte_tokenizer()(prompt, return_tensors="pt")["input_ids"]
    return decoder.draw(ids, SEEDS, Sampling(max_tokens=tokens, temperature=temperature))


@torch.no_grad()
def check(model: Any, drawn: Any, prompt: str = PROMPT, temperature: float = 0.9) -> None:
    """Log-probs and entropies of every sample against a pass of the model in float64, where it runs in float64."""
    ids = byte_tokenizer()(prompt)["input_ids"]
    rows = [drawn.ids[i, : int(drawn.lengths[i])].tolist() for i in range(len(drawn.ids))]
    try:
        precise = model.double()
        precise(torch.tensor([ids]), use_cache=False)
    except (RuntimeError, ValueError):  # kernels of experts
        precise = model.float()
    for i, row in enumerate(rows):
        logits = precise(torch.tensor([ids + row]), use_cache=False).logits[0, len(ids) - 1 : -1].double() / temperature
        expected = torch.log_softmax(logits, -1)
        ours = drawn.logprobs[i, : len(row)].double()
        torch.testing.assert_close(ours, expected[range(len(row)), row], atol=1e-4, rtol=0)
        entropy = -(expected.exp() * expected).sum(-1)
        torch.testing.assert_close(drawn.entropies[i, : len(row)].double(), entropy, atol=1e-4, rtol=0)
    model.float()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_recorded_is_that_of_one_forward_pass(name: str) -> None:
    said: list[str] = []
    model = tiny_decoder(name)
    decoder = ready(model, said)
    drawn = draw(decoder)
    check(model, drawn)
    assert len(set(drawn.lengths.tolist())) > 1
    assert len(said) == (0 if decoder.way is CacheUse.SHARED else 1)
    if name in ("llama", "gpt2", "gemma3_text"):
        assert decoder.way is CacheUse.SHARED


@pytest.mark.parametrize("way", CacheUse)
def test_continuations_of_given_tokens_are_those_of_a_prompt_that_holds_the_token(way: CacheUse) -> None:
    model = tiny_decoder("llama")
    decoder = ready(model, [])
    decoder.way = way
    ids = byte_tokenizer()(PROMPT, return_tensors="pt")["input_ids"]
    sampling, first = Sampling(max_tokens=12), [65, 66, 66, 67, 90]
    drawn = decoder.draw(ids, SEEDS, sampling, first=first)
    for i, token in enumerate(first):
        alone = decoder.draw(torch.cat([ids, torch.tensor([[token]])], dim=1), [SEEDS[i]], sampling)
        length = int(alone.lengths[0])
        assert int(drawn.lengths[i]) == length
        assert torch.equal(drawn.ids[i, :length], alone.ids[0, :length])
        torch.testing.assert_close(drawn.logprobs[i, :length], alone.logprobs[0, :length], atol=1e-5, rtol=0)
    assert drawn.ids[1].tolist() != drawn.ids[2].tolist()  # one token, two seeds


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_the_next_token_s_probabilities_are_those_that_it_is_drawn_with(top_p: float) -> None:
    decoder = ready(tiny_decoder("llama"), [])
    ids = byte_tokenizer()(PROMPT, return_tensors="pt")["input_ids"]
    sampling = Sampling(max_tokens=1, temperature=0.8, top_p=top_p)
    probs = decoder.next_token(ids, sampling)
    drawn = decoder.draw(ids, range(4000), sampling)
    share = torch.bincount(drawn.ids[:, 0], minlength=probs.numel()).double() / 4000
    assert float(probs.sum()) == pytest.approx(1)
    assert float((share - probs).abs().max()) < 4 * 0.5 / 4000**0.5
    assert int((probs == 0).sum()) > 0 if top_p < 1 else bool((probs > 0).all())


def forget(cache: Any, index: Any) -> None:
    """A cache that repeats its rows and forgets what is in them."""
    for layer in cache.layers:
        layer.keys = torch.zeros_like(layer.keys).index_select(0, index)
        layer.values = torch.zeros_like(layer.values).index_select(0, index)


def refuse(cache: Any, index: Any) -> None:
    raise AttributeError("'LinearAttentionLayer' object has no attribute 'batch_repeat_interleave'")


@pytest.mark.parametrize(("reorder", "reason"), [(forget, "log-probs differ"), (refuse, "AttributeError")])
@pytest.mark.parametrize("way", [CacheUse.PLAIN, CacheUse.WHOLE])
def test_a_cache_that_cannot_be_shared_or_is_wrong_costs_time_alone(
    monkeypatch: pytest.MonkeyPatch, reorder: Callable[..., None], reason: str, way: CacheUse
) -> None:
    model = tiny_decoder("llama")
    expected = draw(ready(model, []))
    said: list[str] = []
    monkeypatch.setattr(transformers.DynamicCache, "reorder_cache", reorder)
    if way is CacheUse.WHOLE:
        monkeypatch.setattr(type(model), "generate", lambda *_, **__: refuse(None, None))
        reason = "AttributeError"
    decoder = ready(model, said)
    drawn = draw(decoder)
    assert decoder.way is way
    assert len(said) == 1
    assert "LlamaForCausalLM" in said[0]
    assert reason in said[0]
    assert ("plain batches" in said[0]) == (way is CacheUse.PLAIN)
    assert drawn.lengths.tolist() == expected.lengths.tolist()
    for i, length in enumerate(expected.lengths.tolist()):
        assert drawn.ids[i, :length].tolist() == expected.ids[i, :length].tolist()
    check(model, drawn)


def test_a_cache_that_goes_wrong_only_in_long_texts_is_found_where_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_decoder("llama")
    forward = type(model).forward

    def dim(self: Any, *args: Any, past_key_values: Any = None, **options: Any) -> Any:
        output = forward(self, *args, past_key_values=past_key_values, **options)
        if past_key_values is not None and past_key_values.get_seq_length() > 70:
            output.logits = output.logits * 0.9
        return output

    monkeypatch.setattr(type(model), "forward", dim)
    said: list[str] = []
    decoder = ready(model, said)
    assert decoder.way is CacheUse.SHARED
    short = draw(decoder)
    assert not said
    long = draw(decoder, PROMPT * 4, 10)
    assert len(said) == 1
    assert "log-probs differ" in said[0]
    draw(decoder, PROMPT * 4, 10)
    assert len(said) == 1
    monkeypatch.undo()
    check(model, short)
    check(model, long, PROMPT * 4)


@pytest.mark.parametrize(
    ("temperature", "kind"), [(0.1, "float32"), (2.0, "float32"), (1.0, "bfloat16"), (1.0, "float16")]
)
def test_rounding_alone_is_not_taken_for_a_wrong_cache(temperature: float, kind: str) -> None:
    for name in ("llama", "gemma3_text", "qwen3_moe"):
        said: list[str] = []
        decoder = ready(tiny_decoder(name).to(getattr(torch, kind)), said)
        draw(decoder, temperature=temperature, tokens=40)
        assert (decoder.way, said) == (CacheUse.SHARED, [])


def test_a_model_that_looks_ahead_is_no_decoder() -> None:
    with pytest.raises(InputError, match=r"BertLMHeadModel sees the tokens that follow .* set is_decoder"):
        ready(tiny_decoder("bert"), [])
    ready(tiny_decoder("bert", is_decoder=True), [])


def test_a_text_longer_than_the_model_can_hold_is_said() -> None:
    for positions in (64, 12):  # the second has too few for the text that finds the way
        decoder = ready(tiny_decoder("gpt2", max_position_embeddings=positions), [])
        decoder.eos = ()
        assert draw(decoder, PROMPT[:8], tokens=4).lengths.tolist() == [4] * 5
        with pytest.raises(InputError, match=rf"fails on a prompt of 20 tokens .*{positions} tok.* 70 here"):
            draw(decoder, tokens=50)
