"""How hard a sentence about a video is (VideoSeg-R1): the question to a rater, its answer, and the difficulty D.

A multimodal model rates five aspects from 1 to 10; D is their mean. What length of reasoning a difficulty is worth is
`rewards.length`'s. The paper's question is not published: this one is ours. This file knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.parsing import integer, plain, search_records

ASPECTS = (
    "scene_complexity",
    "segmentation_challenge",
    "temporal_ambiguity",
    "motion_complexity",
    "linguistic_ambiguity",
)
LEAST = 1
MOST = 10
UNKNOWN = 5.5  # of an aspect without a readable rating: the middle of the scale
PROMPT_VERSION = 1  # to be raised with every change of `question`

Ratings = Mapping[str, int]  # aspect -> LEAST..MOST; an aspect may be missing


def difficulty(ratings: Ratings) -> float:
    """D, the mean over all five aspects; a missing one counts UNKNOWN."""
    return sum(float(ratings.get(aspect, UNKNOWN)) for aspect in ASPECTS) / len(ASPECTS)


def is_complete(ratings: Ratings) -> bool:
    return all(aspect in ratings for aspect in ASPECTS)


def question(query: str, num_frames: int) -> str:
    """What the rater is asked after it was shown `num_frames` frames."""
    return (
        f"\nThese are {num_frames} frames of a video, in order. Someone is to find and outline, in every frame, what "
        f'this refers to: "{plain(query)}"\n'
        f"Rate how hard that is, each aspect with a whole number from {LEAST} (trivial) to {MOST} (extremely hard):\n"
        "- scene_complexity: how many objects there are, and how cluttered the background is\n"
        "- segmentation_challenge: small, thin, blurred or covered objects, and those that blend in\n"
        "- temporal_ambiguity: how much of the video must be watched, how late it is clear which object it is\n"
        "- motion_complexity: fast or irregular movement of the object or the camera, leaving and coming back\n"
        "- linguistic_ambiguity: how much the sentence leaves open, or takes reasoning and knowledge to resolve\n"
        "Answer with a JSON object that has these five keys and nothing else."
    )


def answer(ratings: Ratings) -> str:
    """Ratings in the form that the question asks for."""
    return (
        "{"
        + ", ".join(f'"{aspect}": {ratings[aspect]}' for aspect in ASPECTS if aspect in ratings)
        + "}"
    )


def read(text: str) -> dict[str, int]:
    """The readable ratings in an answer, wherever its JSON stands; of several objects the first counts.

    A rating that is no whole number from LEAST to MOST is left out. Any text is taken; nothing raises.
    """
    rows: Sequence[Mapping[object, object]] = search_records(text)
    found = {aspect: integer(rows[0].get(aspect)) for aspect in ASPECTS} if rows else {}
    return {
        aspect: rating
        for aspect, rating in found.items()
        if rating is not None and LEAST <= rating <= MOST
    }
