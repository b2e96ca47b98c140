"""The difficulty D of a query (VideoSeg-R1): a question to a rater, its answer, and D.

A multimodal model rates five aspects from 1 to 10; D is their mean. `rewards.length` turns D into a
budget of reasoning tokens. The paper does not publish its question; this one is chosen by this
project.

The system, the job that rates samples and the synthetic world share this file.
"""

from __future__ import annotations

from collections.abc import Mapping

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
# The value of an aspect without a readable rating, and D without any: the middle of the scale.
UNKNOWN = 5.5
# To be raised with every change of `rating_question`.
PROMPT_VERSION = 1

# From aspect to LEAST..MOST; an aspect may be missing.
Ratings = Mapping[str, int]


def difficulty(ratings: Ratings) -> float:
    """Return D, the mean over all five aspects; a missing one counts UNKNOWN."""
    return sum(float(ratings.get(aspect, UNKNOWN)) for aspect in ASPECTS) / len(ASPECTS)


def is_complete(ratings: Ratings) -> bool:
    """Return whether every aspect has a rating."""
    return all(aspect in ratings for aspect in ASPECTS)


def rating_question(query: str, num_frames: int) -> str:
    """Return the question to the rater after `num_frames` frames of the video."""
    return (
        f"\nThese are {num_frames} frames of a video, in order. Someone is to find and outline, in "
        f'every frame, what this refers to: "{plain(query)}"\n'
        f"Rate how hard that is, each aspect with a whole number from {LEAST} (trivial) to {MOST} "
        "(extremely hard):\n"
        "- scene_complexity: how many objects there are, and how cluttered the background is\n"
        "- segmentation_challenge: small, thin, blurred or covered objects, and those that blend "
        "in\n"
        "- temporal_ambiguity: how much of the video must be watched, how late it is clear which "
        "object it is\n"
        "- motion_complexity: fast or irregular movement of the object or the camera, leaving and "
        "coming back\n"
        "- linguistic_ambiguity: how much the sentence leaves open, or takes reasoning and "
        "knowledge to resolve\n"
        "Answer with a JSON object that has these five keys and nothing else."
    )


def rating_answer(ratings: Ratings) -> str:
    """Write ratings in the form asked for by the question."""
    entries = [f'"{aspect}": {ratings[aspect]}' for aspect in ASPECTS if aspect in ratings]
    return "{" + ", ".join(entries) + "}"


def read_ratings(text: str) -> dict[str, int]:
    """Return the readable ratings of an answer, wherever its JSON stands.

    Of several JSON objects the first counts. A rating must be a whole number from LEAST to MOST, or
    it is left out. No text raises an error.
    """
    found = search_records(text)
    if not found:
        return {}
    ratings = {}
    for aspect in ASPECTS:
        rating = integer(found[0].get(aspect))
        if rating is not None and LEAST <= rating <= MOST:
            ratings[aspect] = rating
    return ratings
