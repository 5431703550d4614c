"""No damage to a model folder ends a command that loads it otherwise than in one sentence that names the folder.

Each command has written something with the whole model, and goes on with the damaged one: what there is stays.
"""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("transformers", minversion="5")  # whose words some sentences quote

import process_memory
from mutations import Draw, command, damaged_bytes, damaged_json
from safetensors.torch import load_file, save_file
from tiny_decoders import save_decoder

import forkwise.bounded
from forkwise.samples import write_shard

INTERNALS = re.compile(
    r"Traceback|NoneType|(Key|Type|Attribute|Index|Assertion)Error|object has no|object is not|not supported between"
    r"|positional argument|keyword argument|unhashable|index out of range|0x[0-9a-f]{6}|weights_only"
)
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9999) %}" + 3 * "{% endfor %}"
TALK = [{"role": "system", "content": "s"}, {"role": "user", "content": "1 + 1"}]
Act = Callable[[Path], Any]


class Place:
    """A model folder, and for each command a folder that it has begun to fill with the whole model."""

    def __init__(self, root: Path) -> None:
        self.root, self.model, self.talk = root, root / "model", root / "talk.jsonl"
        save_decoder(self.model, num_hidden_layers=1)
        settings = self.model / "tokenizer_config.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": TEMPLATE}))
        talks = [{"prompt": [TALK[0], {"role": "user", "content": f"1 + {i}"}], "answer": str(i + 1)} for i in range(4)]
        self.talk.write_text("".join(json.dumps(talk) + "\n" for talk in talks))
        row = {"run": "r", "model": "m", "problem_id": "p", "prompt": json.dumps(TALK), "completion": "so, 2"}
        row |= {"answer": "2", "correct": True, "verdict_by": "x", "n_tokens": 5, "finish_reason": "length"}
        for shard in (0, 1):
            write_shard(root / "samples", str(shard), [{**row, "sample_id": shard}])
        shutil.copytree(self.model, root / "whole" / "model")

    def begin(self, name: str) -> None:
        code, said = self.run(name)
        assert code == 0, said
        last = sorted(self.root.glob(f"{name}/**/*.parquet"))[-1:]
        for shard in last:  # so that there is something to go on with
            shard.unlink()
        shutil.copytree(self.root / name, self.root / "whole" / name)

    def restore(self, folder: str) -> None:
        shutil.rmtree(self.root / folder)
        shutil.copytree(self.root / "whole" / folder, self.root / folder)

    def run(self, name: str, *more: str) -> tuple[int, str]:
        words = [word.format(root=self.root, model=self.model, out=self.root / name) for word in COMMANDS[name].split()]
        return command(*words, *more)

    def damaged(self, name: str, act: Act) -> tuple[int, str]:
        """Exit code and sentence of a command with a damaged model; fails if it lost what there was."""
        self.restore("model")
        if not (self.root / "whole" / name).exists():
            self.begin(name)
        self.restore(name)
        act(self.model)
        before = process_memory.resident()
        process_memory.forget_peak()
        code, text = self.run(name, *(("--resume", "true", "--max_steps", "2") if name in ("grpo", "ppo") else ()))
        grown = process_memory.peak() - before
        assert grown < 1024, f"{grown:.0f} MiB more"
        said = " ".join(line for line in text.splitlines() if line.startswith("forkwise: "))
        if code:
            assert not INTERNALS.search(said), said
            for path in (self.root / "whole" / name).rglob("*"):
                if path.is_file():
                    now = self.root / name / path.relative_to(self.root / "whole" / name)
                    assert now.read_bytes() == path.read_bytes(), now
        return code, said


_TRAIN = (
    "--output_dir {out} --dataset {root}/talk.jsonl --num_generations 2 --per_device_train_batch_size 2 --max_steps 1 "
    "--max_completion_length 2 --save_steps 1 --report_to none --use_cpu true --disable_tqdm true"
)
COMMANDS = {
    "sample": "sample --model {model} --out {out} --dataset {root}/talk.jsonl --problems 1 -n 2 --batch-size 1 "
    "--max-tokens 2 --device cpu --no-verify",
    "explore": "explore {root}/samples --model {model} --out {out} --resamples 100 --device cpu",
    "grpo": f"grpo --model {{model}} {_TRAIN}",
    "ppo": f"ppo --model {{root}}/whole/model --value_model {{model}} {_TRAIN}",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("models")
    before = resource.getrlimit(resource.RLIMIT_AS)
    yield Place(root)
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(forkwise.bounded, "_SECONDS", 1)


# ---- damage


def put(name: str, content: Any) -> Act:
    """Writes a file: bytes, text, or anything else as JSON."""
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    return lambda folder: (folder / name).write_bytes(content)


def change(name: str, **settings: Any) -> Act:
    """Changes settings in a JSON file; `...` removes one."""

    def act(folder: Path) -> None:
        path = folder / name
        content = {**(json.loads(path.read_text()) if path.exists() else {}), **settings}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return act


def configure(**settings: Any) -> Act:
    return change("config.json", **settings)


def cut(name: str, size: int) -> Act:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def folder_for(name: str) -> Act:
    def act(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return act


def header(edit: Callable[[str], bytes]) -> Act:
    """Another header of the weights; the data stays."""

    def act(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        new = edit(data[8 : 8 + size].decode())
        path.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + size :])

    return act


def first(**settings: Any) -> Act:
    def edit(text: str) -> bytes:
        content = json.loads(text)
        content["lm_head.weight"] |= settings
        return json.dumps(content).encode()

    return header(edit)


def length(size: int) -> Act:
    return put("model.safetensors", struct.pack("<Q", size) + b"{}")


def index(shard: Any, **more: Any) -> Act:
    """Puts an index that names one shard for every tensor in the place of the weights, which are `a.safetensors`."""

    def act(folder: Path) -> None:
        names = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "a.safetensors")
        content = {"metadata": {}, "weight_map": dict.fromkeys(names, shard), **more}
        change("model.safetensors.index.json", **content)(folder)

    return act


def tensors(edit: Callable[[dict[str, Any]], Any]) -> Act:
    def act(folder: Path) -> None:
        content = load_file(folder / "model.safetensors")
        edit(content)
        save_file(content, folder / "model.safetensors", metadata={"format": "pt"})

    return act


def pickled(content: Any) -> Act:
    def act(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        if isinstance(content, bytes):
            (folder / "pytorch_model.bin").write_bytes(content)
        else:
            torch.save(content, folder / "pytorch_model.bin")

    return act


def adapter(**settings: Any) -> Act:
    """Makes an adapter of the folder, with one damaged setting."""

    def act(folder: Path) -> None:
        for name in ("config.json", "model.safetensors"):
            (folder / name).unlink()
        good = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
        base = str(folder.parent / "whole" / "model")
        change("adapter_config.json", **{**good, "base_model_name_or_path": base, **settings})(folder)
        key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
        weights = {key.format("A"): torch.zeros(2, 32), key.format("B"): torch.zeros(32, 2)}
        save_file(weights, folder / "adapter_model.safetensors")

    return act


def tokens(**settings: Any) -> Act:
    return change("tokenizer_config.json", **settings)


def generation(**settings: Any) -> Act:
    return change("generation_config.json", **settings)


# What is wrong, and what the sentence about it must say besides the folder.
CONFIG: dict[str, tuple[Act, str]] = {
    "cut off": (cut("config.json", 30), r"config\.json' is damaged"),
    "no JSON": (put("config.json", "hello"), r"config\.json' is damaged"),
    "a list": (put("config.json", []), r"config\.json' is damaged or missing \(it holds no JSON object"),
    "no text": (put("config.json", b"\xff\xfe\0"), r"config\.json' is damaged"),
    "deep": (put("config.json", "[" * 100_000), r"config\.json' is damaged"),
    "a folder": (folder_for("config.json"), r"config\.json' is damaged or missing \(it is no file"),
    "no type": (configure(model_type=...), r"config\.json' \(.*model_type"),
    "an unknown type": (configure(model_type="nope"), r"config\.json' \(.*model type `nope`"),
    "a type of no kind": (configure(model_type=[]), r"config\.json' \("),
    "another type": (configure(model_type="gpt2"), r"(lack \d+ of the tensors|do not fit its config\.json)"),
    "a size that is text": (configure(hidden_size="text"), r"config\.json' \(.*hidden_size.*'text'"),
    "a negative size": (configure(hidden_size=-32), r"config\.json'"),
    "a negative vocabulary": (configure(vocab_size=-1), r"config\.json' \(.*negative dimension -1"),
    "a huge vocabulary": (configure(vocab_size=10**12), "do not fit its config.json, 272x32 for 1000000000000x32"),
    "a size without end": (configure(hidden_size=10**30), r"config\.json' \("),
    "huge layers": (configure(intermediate_size=10**9), r"do not fit its config\.json, .*1000000000"),
    "a million layers": (configure(num_hidden_layers=10**6), r"config\.json' .*num_hidden_layers is 1,000,000"),
    "fewer than no layers": (configure(num_hidden_layers=-1), r"config\.json' .*num_hidden_layers is -1"),
    "a billion labels": (configure(num_labels=10**9), r"config\.json' .*num_labels is 1,000,000,000"),
    "a huge head": (configure(head_dim=10**9), r"config\.json' .*head_dim is 1,000,000,000"),
    "no heads": (configure(num_key_value_heads=0), r"config\.json' \("),
    "an activation of no name": (configure(hidden_act="nope"), r"config\.json' \('nope' is missing, or unknown"),
    "positions of no kind": (configure(rope_parameters={"rope_type": "nope"}), r"config\.json' \('nope' is missing"),
    "dropout": (configure(attention_dropout=5), r"config\.json' \(attention_dropout is 5"),
    "a dtype of no name": (configure(dtype="nope", torch_dtype="nope"), r"config\.json' \("),
    "padding beyond": (configure(pad_token_id=10**6), r"config\.json' \(Padding_idx"),
    "an end of no kind": (configure(eos_token_id={"a": 1}), r"config\.json' \(.*eos_token_id|the eos_token_id"),
    "labels of no kind": (configure(id2label=3), r"config\.json' \(something in it"),
    "code of no kind": (configure(auto_map=3), r"config\.json' \(something in it"),
    "quantized somehow": (configure(quantization_config={"quant_method": "gptq"}), r"config\.json' \(something in it"),
    "quantized by nothing": (configure(quantization_config=3), r"config\.json' \(something in it"),
    "outputs without names": (configure(return_dict=False), r"config\.json' \(return_dict is false"),
    "architectures of no kind": (configure(architectures=[3]), r"config\.json' \(architectures is \[3\]"),
}
FILES: dict[str, tuple[Act, str]] = {
    "weights: no bytes": (put("model.safetensors", b""), r"model\.safetensors' is damaged"),
    "weights: a header cut off": (cut("model.safetensors", 100), r"model\.safetensors' is damaged"),
    "weights: data cut off": (cut("model.safetensors", 9000), r"model\.safetensors' is damaged"),
    "weights: a huge header": (length(2**62), r"model\.safetensors' is damaged"),
    "weights: a header of 90 MB": (length(90_000_000), r"model\.safetensors' is damaged"),
    "weights: a dtype of no name": (first(dtype="nope"), r"model\.safetensors' is damaged"),
    "weights: another dtype": (first(dtype="I32"), r"model\.safetensors' .*'lm_head\.weight' holds whole numbers"),
    "weights: another shape": (first(shape=[1, 2]), r"model\.safetensors' is damaged"),
    "weights: turned": (first(shape=[32, 272]), r"do not fit its config\.json, 32x272 for 272x32 in 'lm_head\.weight'"),
    "weights: no tensors": (put("model.safetensors", struct.pack("<Q", 2) + b"{}"), r"lack 1\d of the tensors"),
    "weights: a layer lost": (tensors(lambda t: t.pop("model.norm.weight")), r"lack 1 of the tensors .*'model\.norm"),
    "weights: a folder": (folder_for("model.safetensors"), r"model\.safetensors' .*\(it is no file"),
    "weights: none": (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors' .*\(it is not there"),
    "index: a shard lost": (index("b.safetensors"), r"b\.safetensors' is damaged or missing \('model\.saf"),
    "index: outside": (index("../../x.safetensors"), r"index\.json' .*outside its folder"),
    "index: without end": (index("/dev/zero"), r"index\.json' .*'/dev/zero', outside its folder"),
    "index: no metadata": (index("a.safetensors", metadata=...), r"index\.json' .*it has no metadata"),
    "index: no names": (index(["a"]), r"is damaged or missing \('model\.safetensors\.index\.json' names it"),
    "pickle: rubbish": (pickled(b"\x80\x02garbage"), r"pytorch_model\.bin' .*no file of tensors alone"),
    "pickle: a list": (pickled([1, 2]), r"pytorch_model\.bin' .*no tensors with names"),
    "tokenizer: cut off": (cut("tokenizer.json", 300), r"tokenizer\.json' is damaged"),
    "tokenizer: of no kind": (put("tokenizer.json", {"model": {"type": "?"}}), r"tokenizer\.json' is damaged"),
    "tokenizer config: cut off": (put("tokenizer_config.json", "[1,"), r"tokenizer_config\.json' is damaged"),
    "tokenizer config: a folder": (folder_for("tokenizer_config.json"), r"tokenizer_config\.json' is damaged"),
    "tokenizer config: length": (tokens(model_max_length="x"), r"tokenizer_config\.json' \(something in it"),
    "tokenizer config: class": (tokens(tokenizer_class=3), r"tokenizer_config\.json' \(something in it"),
    "tokenizer config: end": (tokens(eos_token=3), r"tokenizer_config\.json' \(.*eos_token"),
    "tokenizer config: side": (tokens(padding_side="x"), r"tokenizer_config\.json' \(Padding side"),
    "tokenizer config: tokens": (tokens(added_tokens_decoder=3), r"tokenizer_config\.json' \(something in it"),
    "tokenizer config: half a character": (tokens(note="\ud800"), r"tokenizer_config\.json' \(it has half of a char"),
    "special tokens: a list": (put("special_tokens_map.json", []), r"special_tokens_map\.json' is damaged"),
    "added tokens: a list": (put("added_tokens.json", []), r"added_tokens\.json' is damaged"),
    "template: no text": (put("chat_template.jinja", b"\xff\xfe"), r"chat_template\.jinja' is damaged"),
    "generation: cut off": (put("generation_config.json", "{"), r"generation_config\.json' is damaged"),
    "generation: padding": (generation(pad_token_id="x"), r"generation_config\.json' \(something in it"),
    "generation: an end of no kind": (generation(eos_token_id="x"), r"the eos_token_id 'x'"),
    "generation: a cache": (generation(cache_implementation="nope"), r"generation_config\.json' \(Invalid `cache_"),
}
TEMPLATES: dict[str, tuple[Act, str]] = {
    "none": (tokens(chat_template=...), "no chat template"),
    "no Jinja": (tokens(chat_template="{% for %}"), r"chat template of .* \(Expected an expression"),
    "half a character": (tokens(chat_template=r"{{ '\ud800' }}"), r"chat template of .* surrogates not allowed"),
    "longer than the model": (
        tokens(chat_template="{{ 'A' * 200000 }}"),
        r"200,00\d tokens, .* allows 512 in all",
    ),
    "what is not there": (tokens(chat_template="{{ a.b.c }}"), r"chat template of .* \('a' is undefined"),
    "a list of no templates": (tokens(chat_template=[3]), r"tokenizer_config\.json' \(something in it"),
    "endless": (tokens(chat_template=ENDLESS), r"chat template of .* \(it takes more than 1 seconds"),
    "endless memory": (tokens(chat_template="{{ 'a' * 9999999999 }}"), r"chat template of .* more than a gigabyte"),
    "itself": (tokens(chat_template="{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), r"\(maximum recursion"),
}
ADAPTERS: dict[str, tuple[Act, str]] = {
    "of no kind": (adapter(peft_type="nope"), r"adapter_config\.json' \('nope' is missing, or unknown"),
    "a rank that is text": (adapter(r="x"), r"adapter_config\.json' \("),
    "a huge rank": (adapter(r=10**9), r"adapter_config\.json' .*r is 1,000,000,000"),
    "another rank": (adapter(r=3), r"do not fit its adapter_config\.json, 2x32 for 3x32"),
    "modules of no name": (adapter(target_modules=["nope"]), r"adapter_config\.json' \(Target modules"),
    "no base": (adapter(base_model_name_or_path=...), r"adapter_config\.json' \('base_model_name_or_path' is missing"),
    "a base of nowhere": (adapter(base_model_name_or_path="/no/where"), r"adapter_config\.json' \(.*/no/where"),
    "a list": (put("adapter_config.json", []), r"adapter_config\.json' is damaged"),
}
EVERY = {
    f"{kind}: {name}" if kind else name: case
    for kind, cases in (("config", CONFIG), ("", FILES), ("template", TEMPLATES), ("adapter", ADAPTERS))
    for name, case in cases.items()
}


def refused(place: Place, name: str, act: Act, sentence: str) -> None:
    code, said = place.damaged(name, act)
    assert code == 2, said
    assert str(place.model) in said
    assert re.search(sentence, said), said


def nan(weights: dict[str, Any]) -> None:
    weights["lm_head.weight"][3] = float("nan")


def other_ids(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] = {token: i + (i > 3) * 300 for token, i in content["model"]["vocab"].items()}
    path.write_text(json.dumps(content))


WITH_NUMBERS: dict[str, tuple[Act, str]] = {
    "no numbers": (tensors(nan), "logits of .* are not numbers"),
    "a norm of no numbers": (configure(rms_norm_eps=-1.0), "logits of .* are not numbers"),
    "tokens without rows": (other_ids, r"has the token \d+ .*, and the model has 272 rows"),
}
TRAINED: dict[str, tuple[Act, str]] = {
    "no architecture": (configure(architectures=None), r"config\.json .* names no architecture: .* LlamaForCausalLM"),
    "another architecture": (configure(architectures=["GPT2LMHeadModel"]), "names the architecture GPT2LMHeadModel"),
    "no head": (configure(architectures=["LlamaModel"]), r"\(LlamaModel\) has no language-model head"),
    "an encoder": (configure(is_encoder_decoder=True), "has an encoder, by its config"),
    "a window of no kind": (configure(sliding_window="x"), "fails on a prompt of .* tokens"),
    "no end": (tokens(eos_token=None), "no token that ends a text: set eos_token in its tokenizer_config"),
    "an adapter": (adapter(), r"is an adapter, by its adapter_config\.json: merge"),
    "a template that says nothing": (tokens(chat_template="{{ '' }}"), "has no tokens by the tokenizer of"),
}
FEW = [
    *("config: cut off", "config: a size that is text", "config: a huge vocabulary", "config: a million layers"),
    *("config: outputs without names", "config: architectures of no kind", "config: dropout", "weights: data cut off"),
    *("weights: turned", "weights: a layer lost", "tokenizer: cut off", "tokenizer config: length"),
    *("generation: padding", "index: without end"),
]


@pytest.mark.parametrize("damage", [*EVERY, *WITH_NUMBERS])
def test_damage_is_named_in_sampling(place: Place, damage: str) -> None:
    refused(place, "sample", *(EVERY | WITH_NUMBERS)[damage])


@pytest.mark.parametrize("damage", [*FEW, *(f"template: {name}" for name in TEMPLATES), *WITH_NUMBERS])
def test_damage_is_named_in_scoring(place: Place, damage: str) -> None:
    refused(place, "explore", *(EVERY | WITH_NUMBERS)[damage])


@pytest.mark.parametrize("damage", [*FEW, *(f"template: {name}" for name in TEMPLATES), *WITH_NUMBERS, *TRAINED])
def test_damage_is_named_before_training(place: Place, damage: str) -> None:
    refused(place, "grpo", *(EVERY | WITH_NUMBERS | TRAINED)[damage])


@pytest.mark.parametrize("damage", [name for name in FEW if name != "weights: turned"])  # a critic has no such head
def test_a_damaged_value_model_is_named(place: Place, damage: str) -> None:
    refused(place, "ppo", *EVERY[damage])


@pytest.mark.parametrize("settings", [{"num_beams": "x"}, {"num_beams": -1}, {"min_new_tokens": "x"}])
def test_what_nothing_reads_does_no_harm(place: Place, settings: dict[str, Any]) -> None:
    for name in ("sample", "grpo"):
        assert place.damaged(name, generation(**settings)) == (0, "")


# ---- at random


def at_random(draw: Draw) -> Act:
    """One file of the folder damaged, or one setting or value in it changed."""

    def act(folder: Path) -> None:
        path = draw.choice(sorted(folder.iterdir()))
        if path.suffix == ".json" and draw.random() < 0.85:
            path.write_bytes(damaged_json(path.read_text(encoding="utf-8"), draw))
        elif path.suffix == ".safetensors" and draw.random() < 0.6:
            header(lambda text: damaged_json(text, draw))(folder)
        else:
            path.write_bytes(damaged_bytes(path.read_bytes(), draw))

    return act


def fuzz(place: Place, name: str, seeds: range, seconds: float) -> None:
    until = time.monotonic() + seconds
    for seed in seeds:
        if time.monotonic() > until:
            break
        try:
            place.damaged(name, at_random(random.Random(f"{name}{seed}")))
        except AssertionError as error:
            raise AssertionError(f"{name}, seed {seed}: {error}") from None


@pytest.mark.parametrize("name", ["sample", "explore"])
def test_no_damage_at_random_ends_in_a_traceback(place: Place, name: str) -> None:
    fuzz(place, name, range(12), 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_no_damage_at_random_ends_in_a_traceback_for_longer(place: Place, name: str) -> None:
    fuzz(place, name, range(1000, 10_000), 120)
