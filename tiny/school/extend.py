"""Add tokens to a policy: recurring pieces of an answer become single tokens, so answers get short.

    python -m tiny.school.extend tiny/weights/revseg FOLDER

The row of a new token is the mean of the rows of the tokens that spelled it so far. So the model
starts near its old knowledge. Every text still round-trips; texts without any of the pieces keep
their ids.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AddedToken, AutoProcessor, Qwen2_5_VLForConditionalGeneration

# Pieces of answers that list objects with boxes and points, of their short questions, and of
# questions about time.
OBJECT_PIECES = (
    '],"point_2d":[',
    '],"neg_point_2d":[',
    "]}]",
    ']},{"bbox_2d":[',
    '[{"point_2d":[',
    ']},{"point_2d":[',
    "[]",
    ": box",
    ": point",
    ", point",
    ", off",
    " Part with",
    " Best view of",
    '{"start":',
    ',"end":',
)
# The size of the vocabulary is a multiple of it.
MULTIPLE = 32


def extend(source: str | Path, out: str | Path, pieces: Sequence[str] = OBJECT_PIECES) -> int:
    """Write a Qwen2.5-VL folder with a token for each piece, in the type of its source.

    Returns:
        The number of new tokens.

    Raises:
        ValueError: `out` exists already.
    """
    if Path(out).exists():
        raise ValueError(f"{out} exists already; choose another folder or remove it")

    processor = AutoProcessor.from_pretrained(source)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(source, dtype="auto")
    tokenizer = processor.tokenizer
    before = len(tokenizer)
    spelled = {piece: tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces}
    tokenizer.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in pieces])

    rows = model.get_input_embeddings().weight
    if len(tokenizer) > len(rows):
        size = -(-len(tokenizer) // MULTIPLE) * MULTIPLE
        model.resize_token_embeddings(size, mean_resizing=False)
        rows = model.get_input_embeddings().weight
    # The head is tied to the embedding: its rows are the same.
    with torch.no_grad():
        for piece, ids in spelled.items():
            was_token = len(ids) == 1
            if not was_token:
                mean = rows[ids].float().mean(0)
                rows[tokenizer.convert_tokens_to_ids(piece)] = mean.to(rows.dtype)

    model.save_pretrained(out)
    processor.save_pretrained(out)
    return len(tokenizer) - before


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(f"{extend(sys.argv[1], sys.argv[2])} new tokens in {sys.argv[2]}")
