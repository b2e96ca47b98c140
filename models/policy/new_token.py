"""Add an ordinary token such as [SEG] to a policy's vocabulary."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AddedToken, AutoModelForImageTextToText, AutoTokenizer

from models.policy.older_versions import add_old_names

# A growing vocabulary grows to a multiple of this.
ROWS = 64


def add_token(source: Path, out: Path, token: str) -> int:
    """Write the policy in `source` to `out` with one more token; return the token's id.

    The dtype stays. The token's embedding and its row of the head start as the mean over the tokens
    of its old spelling, so the model starts near its old knowledge.
    """
    model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(source)
    spelled = tokenizer(token, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    # Not a control token: the policy must be allowed to sample it.
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    token_id = int(tokenizer.convert_tokens_to_ids(token))

    # Released vocabularies are padded and usually have room.
    if token_id >= len(model.get_input_embeddings().weight):
        size = -(-len(tokenizer) // ROWS) * ROWS
        model.resize_token_embeddings(size, mean_resizing=False)

    # Both are one tensor where embeddings are tied.
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            mean_D = layer.weight[spelled].float().mean(0)
            layer.weight[token_id] = mean_D.to(layer.weight.dtype)

    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors*", "*.bin"))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    add_old_names(out)
    return token_id
