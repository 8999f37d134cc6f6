"""The tokenizer of the tiny model: byte-level BPE over a fixed list of words, with ChatML."""

import json
from collections.abc import Iterator
from pathlib import Path

from sglang_marconi.traces.words import WORDS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, BOS, EOS)
"""Their ids are their positions here: the trainer numbers them first."""

_CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role not in ['system', 'user', 'assistant', 'tool'] -%}
{{- raise_exception('unknown role: ' + message.role) -}}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def build_tokenizer() -> Tokenizer:
    """Trains the tokenizer; any UTF-8 text without special tokens comes back from it unchanged."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(  # type: ignore[no-untyped-call]
        # Above what the corpus can fill: training ends when every word is one token.
        vocab_size=8192,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, max_length: int) -> None:
    """Writes `tokenizer.json` and the `tokenizer_config.json` with the chat template."""
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def word_token_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens that are a space and a whole word.

    Any sequence of them is tokenized again as itself, because each space starts a new piece.
    """
    ids = (tokenizer.token_to_id(f"Ġ{word}") for word in WORDS)
    return [id for id in ids if id is not None]


def _corpus() -> Iterator[str]:
    yield from (f" {word}" for word in WORDS)
    yield from ("system\n", "user\n", "assistant\n", "tool\n")
