"""One more token for a policy, such as [SEG]: an ordinary one, which it may say, not a control token.

Knows neither what the token is for nor how it is learned.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AddedToken, AutoModelForImageTextToText, AutoTokenizer

ROWS = 64  # the vocabulary's size becomes a multiple of it, if it must grow


def add_token(source: Path, out: Path, token: str) -> int:
    """Writes the Hugging Face folder `source` to `out` with one more token, in the same type; returns its id.

    Its embedding, and its row of the head, is the mean of those of the tokens that spelled it until now: the model
    starts near what it knew.
    """
    model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(source)
    spelled = tokenizer(token, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    number = int(tokenizer.convert_tokens_to_ids(token))
    if number >= len(model.get_input_embeddings().weight):  # else a padded vocabulary has room
        model.resize_token_embeddings(-(-len(tokenizer) // ROWS) * ROWS, mean_resizing=False)
    with torch.no_grad():
        for layer in (
            model.get_input_embeddings(),
            model.get_output_embeddings(),
        ):  # one and the same where tied
            layer.weight[number] = layer.weight[spelled].float().mean(0).to(layer.weight.dtype)
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin"))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return number
