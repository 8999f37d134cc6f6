"""Builds a small hybrid model (NemotronH family) with random weights, for the demo and the tests.

    python scripts/tiny_model.py DIR

It has what a real one has (Mamba2, attention and MLP layers, a tokenizer, a chat template) in
1.3 million parameters, so that the real SGLang server runs it on a CPU.
"""

import argparse
import hashlib
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tiny_tokenizer
import torch
from safetensors.torch import save_file
from sglang_marconi.traces import words
from torch import Tensor

_STAMP = "recipe.sha256"
_CONTEXT = 65536

_HIDDEN = 128
PATTERN = "M-M*-M-M*-"
"""Layers in order: M is Mamba2, * attention, - MLP."""
_MLP = 384
_ATTENTION_HEADS, _KV_HEADS, _HEAD_DIM = 4, 2, 32
_MAMBA_HEADS, _MAMBA_HEAD_DIM, _GROUPS, _STATE, _CONV = 8, 32, 2, 32, 4
_INNER = _MAMBA_HEADS * _MAMBA_HEAD_DIM
_CONV_CHANNELS = _INNER + 2 * _GROUPS * _STATE


def build_tiny_model(path: Path, *, seed: int = 0, pattern: str = PATTERN) -> Path:
    """Writes the model into the directory `path`, unless it is there already, and returns `path`.

    The same seed and pattern of layers give the same files. Raises `FileExistsError` if `path`
    holds anything that this function did not write.
    """
    recipe = _recipe(seed, pattern)
    stamp = path / _STAMP
    if stamp.is_file():
        if stamp.read_text() == recipe:
            return path
        shutil.rmtree(path)
    elif path.exists() and any(path.iterdir()):
        raise FileExistsError(f"{path} exists and holds no tiny model; choose another directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place when complete: an interrupted build leaves nothing that looks finished.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        directory = Path(scratch) / "model"
        directory.mkdir()
        _write(directory, seed, pattern)
        (directory / _STAMP).write_text(recipe)
        directory.rename(path)
    return path


def _recipe(seed: int, pattern: str) -> str:
    """Changes with the arguments and with everything that the files are made from."""
    sources = (__file__, tiny_tokenizer.__file__, words.__file__)
    contents = b"".join(Path(source).read_bytes() for source in sources)
    return hashlib.sha256(contents + f"{seed} {pattern}".encode()).hexdigest()


def _write(directory: Path, seed: int, pattern: str) -> None:
    tokenizer = tiny_tokenizer.build_tokenizer()
    tiny_tokenizer.save_tokenizer(tokenizer, directory, _CONTEXT)
    vocabulary = tokenizer.get_vocab_size()
    reply_tokens = tiny_tokenizer.word_token_ids(tokenizer)
    weights = _weights(vocabulary, reply_tokens, seed, pattern)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    ids = {
        "pad_token_id": tokenizer.token_to_id(tiny_tokenizer.PAD),
        "bos_token_id": tokenizer.token_to_id(tiny_tokenizer.BOS),
        "eos_token_id": tokenizer.token_to_id(tiny_tokenizer.EOS),
    }
    _write_json(directory / "config.json", _config(vocabulary, pattern) | ids)
    _write_json(directory / "generation_config.json", ids)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def _config(vocabulary: int, pattern: str) -> dict[str, Any]:
    return {
        "architectures": ["NemotronHForCausalLM"],
        "model_type": "nemotron_h",
        "dtype": "float32",
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "hidden_size": _HIDDEN,
        "num_hidden_layers": len(pattern),
        "hybrid_override_pattern": pattern,
        "intermediate_size": _MLP,
        "mlp_hidden_act": "relu2",
        "num_attention_heads": _ATTENTION_HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_DIM,
        "mamba_num_heads": _MAMBA_HEADS,
        "mamba_head_dim": _MAMBA_HEAD_DIM,
        # Transformers and one part of SGLang read the first name, the rest of SGLang the second.
        "n_groups": _GROUPS,
        "mamba_n_groups": _GROUPS,
        "ssm_state_size": _STATE,
        "conv_kernel": _CONV,
        "expand": _INNER // _HIDDEN,
        "chunk_size": 64,
        "max_position_embeddings": _CONTEXT,
        "layer_norm_epsilon": 1e-5,
    }


def _weights(
    vocabulary: int, reply_tokens: list[int], seed: int, pattern: str
) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=random) * scale

    def linear(outputs: int, inputs: int, scale: float = 1.0) -> Tensor:
        return normal(outputs, inputs, scale=scale / math.sqrt(inputs))

    def mamba() -> dict[str, Tensor]:
        # Time steps from 0.001 to 0.1 and decays from 1 to 16, as Mamba2 is initialised: some
        # heads remember a few tokens, others hundreds.
        steps = torch.empty(_MAMBA_HEADS).uniform_(math.log(1e-3), math.log(1e-1), generator=random)
        return {
            "in_proj.weight": linear(_INNER + _CONV_CHANNELS + _MAMBA_HEADS, _HIDDEN),
            "conv1d.weight": normal(_CONV_CHANNELS, 1, _CONV, scale=1 / math.sqrt(_CONV)),
            "conv1d.bias": torch.zeros(_CONV_CHANNELS),
            "A_log": torch.empty(_MAMBA_HEADS).uniform_(1, 16, generator=random).log(),
            "D": torch.ones(_MAMBA_HEADS),
            # The inverse of softplus, which the model applies to it.
            "dt_bias": steps.exp().expm1().log(),
            "norm.weight": torch.ones(_INNER),
            "out_proj.weight": linear(_HIDDEN, _INNER),
        }

    def attention() -> dict[str, Tensor]:
        queries, keys = _ATTENTION_HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
        return {
            "q_proj.weight": linear(queries, _HIDDEN),
            "k_proj.weight": linear(keys, _HIDDEN),
            "v_proj.weight": linear(keys, _HIDDEN),
            "o_proj.weight": linear(_HIDDEN, queries),
        }

    def mlp() -> dict[str, Tensor]:
        return {
            "up_proj.weight": linear(_MLP, _HIDDEN),
            "down_proj.weight": linear(_HIDDEN, _MLP),
        }

    make = {"M": mamba, "*": attention, "-": mlp}
    weights = {"backbone.embeddings.weight": normal(vocabulary, _HIDDEN)}
    for index, kind in enumerate(pattern):
        layer = f"backbone.layers.{index}"
        weights[f"{layer}.norm.weight"] = torch.ones(_HIDDEN)
        weights |= {f"{layer}.mixer.{name}": weight for name, weight in make[kind]().items()}
    weights["backbone.norm_f.weight"] = torch.ones(_HIDDEN)
    # Greedy replies are made of whole words only: like those of a trained model, and unlike random
    # ones, their text is tokenized again as what was generated, so that a chat's next prompt
    # continues its last reply. The factor keeps the best token well ahead of the second.
    head = torch.zeros(vocabulary, _HIDDEN)
    head[reply_tokens] = linear(len(reply_tokens), _HIDDEN, scale=2.0)
    weights["lm_head.weight"] = head
    return weights


def main() -> None:
    """Builds the model into the directory named on the command line."""
    parser = argparse.ArgumentParser(description="Build a small random-weight hybrid model.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: %(default)s)")
    arguments = parser.parse_args()
    print(build_tiny_model(arguments.directory, seed=arguments.seed))


if __name__ == "__main__":
    main()
