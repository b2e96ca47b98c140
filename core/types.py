"""The nouns of rayvos: Sample -> Episode -> Reward -> Group -> Update.

Everything that travels between two stages of a step is one of these frozen dataclasses.
This file knows no process, no model and no paper.

Letters used in names and shape comments everywhere: P prompts, G episodes of a prompt, B rows,
T tokens, V vocabulary, F frames, O objects, H W pixels, N points or trained tokens, D hidden.
Boxes are (x0, y0, x1, y1) in pixels of the original video, x1 and y1 exclusive; spans are half-open
[start, stop); frame numbers are those of the original video, from 0.

A worked example, one group of a two-round system with G = 2::

    Sample("v3/1", Video("v3", ..., 24 frames), "the shape that moves left", targets=(one,))
      Episode 0: Turn(<think>..</think><answer>[{"frame_idx": 7, ..}]</answer>), Turn(box)   End.DONE
      Episode 1: Turn("the red cir")                                                        End.TRUNCATED
    rewards:    Reward(2.4, {"format": 1.0, "temporal": .4, "spatial": 1.0}), Reward(0.25, {...})
    advantages: (+0.71, -0.71)
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypedDict

import numpy as np


class Rle(TypedDict):
    """A binary mask as compressed COCO run-length encoding."""

    size: list[int]  # [height, width]
    counts: str


@dataclass(frozen=True)
class Video:
    """Where the frames of one video are; no pixels."""

    uid: str
    path: str  # a folder of images named frame_names[i] + ".jpg" (or ".png"), or one video file
    frame_names: tuple[str, ...]
    height: int
    width: int

    @property
    def num_frames(self) -> int:
        return len(self.frame_names)


@dataclass(frozen=True)
class Target:
    """One referred object: a mask for each frame of the video, None where it is not visible."""

    uid: str
    masks_F: Sequence[Rle | None]  # or read from the data set when asked for


@dataclass(frozen=True)
class Hints:
    """Stored answers to the auxiliary questions of a system's `play` about one sample.

    Attributes:
        target_frame: frame number of the video.
        key_segment: the part [start, stop) of the video to show; None is all of it.
    """

    target_frame: int
    key_segment: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The hints as their file keeps them."""
        row: dict[str, Any] = {"target_frame": self.target_frame}
        if self.key_segment is not None:
            row["key_segment"] = list(self.key_segment)
        return row


@dataclass(frozen=True)
class Notes:
    """Facts about a sample from its data set. `System.play` never sees them.

    A fact that the data set does not give keeps its default.

    Attributes:
        hidden: True if the ground truth is not public. Empty targets then do not mean that nothing is to be found.
        object: Name of the object, in data sets whose expressions refer to one object each.
        category: Category of that object (Ref-YouTube-VOS).
        source: Data set that the video was taken from (ReasonVOS).
        annotator: Number of the annotator, from 0 to 3 (Ref-DAVIS17).
        frames_listed: Names of the frames that count in the evaluation; None: all of them (ReasonVOS).
        foreground_F: Masks of everything annotated in the video, frame by frame (ReVOS).
        ignore_F: Masks of the pixels that count nowhere in the evaluation, frame by frame (ReasonSeg).
        thought: Reasoning for a demonstration.
        description: Looks of the targets, for a demonstration.
        names: Names of the targets, for a demonstration without a description.
        conversations: Turns of a published dialogue, each with "from" and "value" (VTS-CoT).
        sample_frame_indice: Frames that the published dialogue shows first (VTS-CoT).
        difficulty: D of the query, from 1 to 10 (docs/spec/videoseg_r1.md).
        ratings: The ratings that D is the mean of, by aspect.
    """

    hidden: bool = False
    object: str = ""
    category: str = ""
    source: str = ""
    annotator: int | None = None
    frames_listed: tuple[str, ...] | None = None
    foreground_F: Sequence[Rle | None] | None = None
    ignore_F: Sequence[Rle | None] | None = None
    thought: str = ""
    description: str = ""
    names: tuple[str, ...] = ()
    conversations: tuple[Mapping[str, str], ...] | None = None
    sample_frame_indice: tuple[int, ...] | None = None
    difficulty: float | None = None
    ratings: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Sample:
    """A video and a sentence, with the ground truth. No targets: the right answer is "none"."""

    uid: str  # unique in its data set: "<video>/<expression>"
    video: Video
    query: str
    targets: tuple[Target, ...]
    kind: str = ""  # e.g. "motion"; for reports only
    notes: Notes = field(default_factory=Notes)
    # Stored answers to the auxiliary questions of `System.play`. None: `play` asks the policy.
    hints: Hints | None = None

    @property
    def bare(self) -> Sample:
        """Without ground truth and notes: what who plays may see."""
        return replace(self, targets=(), notes=Notes())


@dataclass(frozen=True)
class View:
    """A wish to show one frame of the sample's video to the policy, resized to height x width."""

    frame: int
    height: int
    width: int


@dataclass(frozen=True)
class Vision:
    """Sizes of the images that a policy sees.

    Attributes:
        cell: pixels on a side of one image token; both sides of an image are multiples of it.
    """

    cell: int

    def round_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the nearest multiples of the cell, at least one cell on each side."""
        rows = max(round(height / self.cell), 1)
        columns = max(round(width / self.cell), 1)
        return rows * self.cell, columns * self.cell


@dataclass(frozen=True)
class Media:
    """An image that was shown. Its pixels (uint8, height x width x 3) lie under `digest` in the group's media."""

    digest: str
    view: View


@dataclass(frozen=True)
class Turn:
    """What the policy saw since its last word, and what it said, exactly as sampled."""

    prompt_ids: tuple[
        int, ...
    ]  # new tokens since the previous completion, image placeholders expanded
    completion_ids: tuple[int, ...]  # as sampled, end-of-turn token included when it was sampled
    logprobs: tuple[float, ...]  # of completion_ids, from the engine, at the sampling temperature
    text: str  # completion, decoded, without the end-of-turn token
    media: tuple[Media, ...]  # images in prompt_ids, in order
    complete: bool  # False: max_tokens ran out before the end-of-turn token
    version: int  # of the weights that sampled it
    trainable: bool = True  # False: a frozen helper turn that the learner never sees


class End(enum.Enum):
    """How an episode ended."""

    DONE = "done"
    UNREADABLE = "unreadable"  # an answer did not parse: an ordinary, rewarded outcome
    TRUNCATED = "truncated"  # a token budget ran out
    FAILED = "failed"  # our fault: excluded from the group and counted, never rewarded


@dataclass(frozen=True)
class MaskPrompt:
    """Box and points on one frame, in original pixels: what a segmenter needs to make a mask."""

    frame: int
    box: tuple[float, float, float, float] | None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()  # 1 on the object, 0 off it


@dataclass(frozen=True)
class SegPrompt:
    """A mask that the policy itself draws: the hidden state at a [SEG] token, decoded on one frame."""

    turn: int  # index into the episode's turns
    position: int  # of the [SEG] token in that turn's completion_ids
    frame: int
    role: str = "keyframe"  # rewarded and calibrated | "video": rewarded on another frame | "final": tracked only


@dataclass(frozen=True)
class Answer:
    """What an episode says about the video.

    Attributes:
        prompts: mask prompts for the segmenter, one for each object.
        facts: the system's own, for its reward and the log; JSON-able.
        segs: [SEG] tokens to draw masks at; `score` gets the masks in this order.
        keyframe: the frame on which the answer locates the object, if it names one.
        reasoning_tokens: length of the thought, where a system counts it.
    """

    prompts: tuple[MaskPrompt, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    segs: tuple[SegPrompt, ...] = ()
    keyframe: int | None = None
    reasoning_tokens: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The facts as the run folder keeps them, with the typed fields under their keys there."""
        row = {**self.facts, "frame": self.keyframe}
        if self.reasoning_tokens is not None:
            row["reasoning_tokens"] = self.reasoning_tokens
        return row


@dataclass(frozen=True)
class Episode:
    """One finished dialogue."""

    sample_uid: str
    turns: tuple[Turn, ...]
    end: End
    answer: Answer = field(default_factory=Answer)
    error: str = ""  # traceback of a FAILED episode


@dataclass(frozen=True)
class Reward:
    """What one episode earned."""

    total: float
    parts: dict[str, float]  # each reward before its weight
    per_turn: tuple[
        float, ...
    ] = ()  # weighted reward of each trainable turn; sums to `total`; empty: not told apart


@dataclass(frozen=True)
class Group:
    """The G episodes of one sample, scored. `media` maps digests to pixels."""

    sample_uid: str
    episodes: tuple[Episode, ...]
    rewards: tuple[Reward | None, ...] = ()  # None for a FAILED episode
    advantages_G: tuple[float, ...] = ()  # 0 for a FAILED episode

    @property
    def informative(self) -> bool:
        """False for a zero-variance group: it carries no policy gradient."""
        return any(a != 0.0 for a in self.advantages_G)


MediaTable = dict[str, np.ndarray]  # digest -> uint8 (height, width, 3)
EpisodeMasks = Sequence[
    Sequence[np.ndarray | None]
]  # of each episode, for each of its answer's prompts or segs: bool (H, W)


class Ask(Protocol):
    """The policy, as a system sees it: one dialogue, to which each call adds a user and an assistant turn."""

    @property
    def version(self) -> int:
        """Of the weights that would answer now."""
        ...

    async def __call__(
        self, content: Sequence[str | View], *, max_tokens: int, trainable: bool = True
    ) -> Turn: ...

    async def auxiliary(
        self, content: Sequence[str | View], *, max_tokens: int, temperature: float, top_p: float
    ) -> Turn:
        """Ask in a dialogue of its own about the same video; this dialogue shows no trace of it.

        The turn is not trainable. Calls may run at the same time and are sampled independently.
        """
        ...

    def count(self, text: str) -> int:
        """How many of the policy's tokens a text is."""
        ...


# "segmenter": each of an answer's prompts on its own frame alone | "policy": its segs | "": the reward needs no masks
MaskMaker = Literal["", "segmenter", "policy"]


class System(Protocol):
    """A published system: how an episode is played, and what it is worth."""

    name: str

    def shown(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample as training shows it to `play`: `sample.bare`, with hints where a method trains on something that
        it finds for itself when it is used. Evaluation always shows `sample.bare`."""
        ...

    async def play(self, sample: Sample, ask: Ask) -> Episode: ...

    @property
    def uses_hints(self) -> bool:
        """True if `play` asks auxiliary questions (`Ask.auxiliary`) about a sample without hints.

        A run asks them once, with the weights it starts from; they are never trained on.
        """
        ...

    def hints(self, episode: Episode) -> Hints | None:
        """The answers to the episode's auxiliary questions, to be stored for later episodes."""
        ...

    @property
    def masks_by(self) -> MaskMaker:
        """Who makes the masks that `score` needs. Where it needs none, nothing is started for them."""
        ...

    def score(
        self, sample: Sample, episodes: Sequence[Episode], masks: EpisodeMasks | None = None
    ) -> list[Reward]: ...

    def demonstrate(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[tuple[list[str | View], str], ...]:
        """The ideal dialogue from the ground truth: for each turn what the user says and what to answer."""
        ...


@dataclass(frozen=True)
class Update:
    """What one optimizer step reports."""

    loss: float
    grad_norm: float
    metrics: dict[str, float]
