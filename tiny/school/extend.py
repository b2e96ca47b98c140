"""New tokens for a policy: recurring pieces of an answer format become single tokens, so that an answer stays short.

    python -m tiny.school.extend tiny/weights/revseg FOLDER

The row of a new token is the mean of the rows of the tokens that spelled it until now, so the model starts near what
it knew. Every text still round-trips; texts without any of the pieces keep their ids. Knows no system and no data set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AddedToken, AutoProcessor, Qwen2_5_VLForConditionalGeneration

# Of answers that list objects with boxes and points, of their questions in short, and of questions about time.
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
ROWS = 32  # the vocabulary's size is a multiple of it


def extend(source: str | Path, out: str | Path, pieces: Sequence[str] = OBJECT_PIECES) -> int:
    """Writes the Qwen2.5-VL folder `source` with a token for each piece to `out`, in the same type; returns how many
    are new. The source is not touched.

    Raises:
        ValueError: `out` is there already.
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
        model.resize_token_embeddings(-(-len(tokenizer) // ROWS) * ROWS, mean_resizing=False)
        rows = model.get_input_embeddings().weight
    with torch.no_grad():  # tied: the head's rows are the same
        for piece, ids in spelled.items():
            if len(ids) > 1:  # else it was a token before
                rows[tokenizer.convert_tokens_to_ids(piece)] = (
                    rows[ids].float().mean(0).to(rows.dtype)
                )
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return len(tokenizer) - before


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(f"{extend(sys.argv[1], sys.argv[2])} new tokens in {sys.argv[2]}")
