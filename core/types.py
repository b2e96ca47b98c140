"""The nouns of rayvos: Sample -> Episode -> Reward -> Group -> Update.

Everything that travels between two stages of a step is one of these frozen dataclasses.

Letters used in names and shape comments everywhere: P prompts, G episodes of a prompt, B rows,
T tokens, V vocabulary, F frames, O objects, H W pixels, N points or trained tokens, D hidden.
Boxes are (x0, y0, x1, y1) in pixels of the original video, x1 and y1 exclusive; spans are half-open
[start, stop); frame numbers are those of the original video, from 0.

A worked example, one group of a two-round system with G = 2::

    Sample("v3/1", Video("v3", ..., 24 frames), "the shape that moves left", targets=(one,))
      Episode 0: Turn(<think>..</think><answer>[{"frame_idx": 7, ..}]</answer>), Turn(box)  End.DONE
      Episode 1: Turn("the red cir")                                                   End.TRUNCATED
    rewards:    Reward(2.4, {"format": 1.0, "temporal": .4, "spatial": 1.0}), Reward(0.25, {...})
    advantages: (+0.71, -0.71)
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypedDict

import numpy as np

from core.geometry import Coordinates
from core.packed import IDS, LOGPROBS, Numbers, packed


class Rle(TypedDict):
    """A binary mask as compressed COCO run-length encoding; `size` is [height, width]."""

    size: list[int]
    counts: str


@dataclass(frozen=True)
class Video:
    """The place of a video's frames; no pixels.

    Attributes:
        uid: name of the video in its data set.
        path: a folder of images named `frame_names[i]` + ".jpg" (or ".png"), or one video file.
        frame_names: one for each frame, in order.
        height: pixels.
        width: pixels.
        stride: of a video file, frame i is its frame i x stride (Ref-SAV labels every fourth).
        chosen: of a video file, the frames of it that are used; () for all.
    """

    uid: str
    path: str
    frame_names: tuple[str, ...]
    height: int
    width: int
    stride: int = 1
    chosen: tuple[int, ...] = ()

    @property
    def num_frames(self) -> int:
        return len(self.frame_names)

    def number(self, frame: int) -> int:
        """Return the number of a frame in the video file."""
        if self.chosen:
            frame = self.chosen[frame]
        return frame * self.stride


@dataclass(frozen=True)
class Place:
    """A box and a point on one frame, in pixels of the video: all that is known without a mask.

    Attributes:
        frame: frame number.
        box: (x0, y0, x1, y1), x1 and y1 exclusive.
        point: (x, y).
    """

    frame: int
    box: tuple[float, float, float, float]
    point: tuple[float, float]


@dataclass(frozen=True)
class Target:
    """One referred object.

    Attributes:
        uid: name of the object in its data set.
        masks_F: its mask on each frame of the video, None if it is not visible. The sequence may
            read from the data set on access.
        place: instead of masks, in data sets without them (VisionReasoner's 7k); `masks_F` is then
            None on every frame. Only some rewards do without masks (`System.needs_masks`).
    """

    uid: str
    masks_F: Sequence[Rle | None]
    place: Place | None = None


@dataclass(frozen=True)
class Hints:
    """Stored answers to the auxiliary questions of a system's `play` about one sample.

    Attributes:
        target_frame: frame number of the video.
        key_segment: span [start, stop) of the video to show; None is all of it.
    """

    target_frame: int
    key_segment: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the hints as their file keeps them."""
        entry: dict[str, Any] = {"target_frame": self.target_frame}
        if self.key_segment is not None:
            entry["key_segment"] = list(self.key_segment)
        return entry


@dataclass(frozen=True)
class Notes:
    """Facts about a sample from its data set; `System.play` never sees them.

    A fact without a value in the data set keeps its default.

    Attributes:
        hidden: True if the ground truth is not public; empty targets then do not mean "none".
        object: name of the object, in data sets with one object for each expression.
        category: category of that object (Ref-YouTube-VOS).
        source: data set of the video's origin (ReasonVOS).
        annotator: number of the annotator, from 0 to 3 (Ref-DAVIS17).
        frames_listed: names of the frames to evaluate; None is all (ReasonVOS, sparse masks of
            your own).
        others_unknown: True if the other frames say nothing about the targets, so that no reward
            may read them.
        foreground_F: masks of everything annotated in the video, frame by frame (ReVOS).
        ignore_F: masks of the pixels left out of the evaluation, frame by frame (ReasonSeg).
        void_F: masks of the pixels that the merged evaluation of Ref-DAVIS17 leaves out.
        thought: reasoning for a demonstration.
        description: looks of the targets, for a demonstration.
        names: names of the targets, for a demonstration without a description.
        conversations: turns of a published dialogue, each with "from" and "value" (VTS-CoT).
        task: what `conversations` answers instead of "where are the targets?" (VideoSEG-O3's SFT
            mixture). "qa": questions about the video; "vtg": when an event happens; "gcg": a
            caption, with a [SEG] for each target in turn. Such a sample serves warm starts alone.
        sample_frame_indice: frames at the start of the published dialogue (VTS-CoT).
        difficulty: D of the query, from 1 to 10, if the data set gives it
            (docs/spec/videoseg_r1.md, Rewards).
        ratings: ratings by aspect; D is their mean.
    """

    hidden: bool = False
    object: str = ""
    category: str = ""
    source: str = ""
    annotator: int | None = None
    frames_listed: tuple[str, ...] | None = None
    others_unknown: bool = False
    foreground_F: Sequence[Rle | None] | None = None
    ignore_F: Sequence[Rle | None] | None = None
    void_F: Sequence[Rle | None] | None = None
    thought: str = ""
    description: str = ""
    names: tuple[str, ...] = ()
    conversations: tuple[Mapping[str, str], ...] | None = None
    task: Literal["", "qa", "vtg", "gcg"] = ""
    sample_frame_indice: tuple[int, ...] | None = None
    difficulty: float | None = None
    ratings: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Sample:
    """A video, a query and its ground truth.

    Attributes:
        uid: unique in its data set, "<video>/<expression>".
        video: the video.
        query: the sentence about the targets.
        targets: the objects it refers to; without any, the right answer is "none".
        kind: a class of queries such as "motion", for reports only.
        notes: facts from the data set, hidden from the policy.
        hints: stored answers to auxiliary questions; None lets `System.play` ask the policy.
    """

    uid: str
    video: Video
    query: str
    targets: tuple[Target, ...]
    kind: str = ""
    notes: Notes = field(default_factory=Notes)
    hints: Hints | None = None

    @property
    def bare(self) -> Sample:
        """A copy without ground truth and notes: all that a rollout may see."""
        return replace(self, targets=(), notes=Notes())


@dataclass(frozen=True)
class View:
    """A request to show one frame to the policy, resized to height x width."""

    frame: int
    height: int
    width: int


@dataclass(frozen=True)
class Vision:
    """Sizes of the images for a policy, for its engine and its learner alike, and the unit of the
    places that it writes.

    Attributes:
        cell: pixels on a side of one image token; both sides of an image are multiples of it.
        min_pixels: fewest pixels of an image; 0 is one token.
        max_pixels: most pixels of an image; 0 is any number.
        coordinates: unit of the places that the policy writes.
    """

    cell: int
    min_pixels: int = 0
    max_pixels: int = 0
    coordinates: Coordinates = "pixels"

    def round_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the nearest multiples of the cell, at least one cell on each side."""
        rows = max(round(height / self.cell), 1)
        columns = max(round(width / self.cell), 1)
        return rows * self.cell, columns * self.cell

    def tokens(self, height: int, width: int) -> int:
        """Return the number of tokens of an image.

        Raises:
            ValueError: a size that the policy's image processor would change.
        """
        cell = self.cell
        if height <= 0 or width <= 0 or height % cell or width % cell:
            raise ValueError(
                f"view of {height} x {width} pixels: both sides must be positive multiples of "
                f"{cell} (patch size x merge size of the vision tower); "
                "change the system's frame size"
            )
        pixels = height * width
        if pixels < self.min_pixels or (self.max_pixels and pixels > self.max_pixels):
            raise ValueError(
                f"view of {height} x {width} = {pixels} pixels: an image of this policy has "
                f"{self.min_pixels} to {self.max_pixels}; change the system's frame size"
            )
        return pixels // cell**2


@dataclass(frozen=True)
class Media:
    """An image that was shown; `data.frames.shown` finds its pixels in any process."""

    digest: str
    view: View


NUMBERS_OF_A_TURN = (("prompt_ids", IDS), ("completion_ids", IDS), ("logprobs", LOGPROBS))


@dataclass(frozen=True)
class Turn:
    """A user message and the completion sampled for it, token by token.

    Its numbers are kept as `core.packed.Numbers`, whatever sequences it is made from.

    Attributes:
        prompt_ids: tokens since the previous completion, image placeholders expanded.
        completion_ids: tokens as sampled, with the end-of-turn token if it was sampled.
        logprobs: of `completion_ids`, from the engine, at the sampling temperature. Empty in
            demonstrations.
        text: the decoded completion, without the end-of-turn token.
        media: the images in `prompt_ids`, in order.
        complete: False if max_tokens ran out before the end-of-turn token.
        version: weight version of the sampling policy.
        trainable: False for a turn of a frozen helper; the learner never sees it.
    """

    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    logprobs: Sequence[float]
    text: str
    media: tuple[Media, ...]
    complete: bool
    version: int
    trainable: bool = True

    def __post_init__(self) -> None:
        # Thousands of numbers travel with each episode.
        for name, code in NUMBERS_OF_A_TURN:
            values = getattr(self, name)
            if not isinstance(values, Numbers):
                object.__setattr__(self, name, packed(code, values))


class End(enum.Enum):
    """How an episode ended."""

    # The last answer was read.
    DONE = "done"
    # An answer did not parse: an ordinary outcome with a reward.
    UNREADABLE = "unreadable"
    # A token budget ran out.
    TRUNCATED = "truncated"
    # An error of the program: excluded from the group and counted, never rewarded.
    FAILED = "failed"


@dataclass(frozen=True)
class MaskPrompt:
    """A box and points on one frame, in pixels of the original video: the input of a segmenter.

    Attributes:
        frame: frame number.
        box: None for points alone.
        points: (x, y).
        labels: for each point 1 on the object, 0 off it.
    """

    frame: int
    box: tuple[float, float, float, float] | None
    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class SegPrompt:
    """A mask to be drawn by the policy: the hidden state at a [SEG] token, decoded on a frame.

    Attributes:
        turn: index into the episode's turns.
        position: of the [SEG] token in the turn's `completion_ids`.
        frame: frame number to draw on.
        role: "keyframe": rewarded and calibrated. "video": rewarded on another frame. "final":
            tracked only.
        target: index of the sample's target to draw; None is the union of all.
    """

    turn: int
    position: int
    frame: int
    role: str = "keyframe"
    target: int | None = None


@dataclass(frozen=True)
class Answer:
    """The answer of an episode about the video.

    Attributes:
        prompts: mask prompts for the segmenter, one for each object.
        facts: what one system alone reads, for its reward and the log; JSON-able.
        segs: [SEG] tokens to draw masks at; `score` gets the masks in this order.
        keyframe: the frame with the located object, if the answer names one.
        reasoning_tokens: length of the thought, if the system counts it.
    """

    prompts: tuple[MaskPrompt, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    segs: tuple[SegPrompt, ...] = ()
    keyframe: int | None = None
    reasoning_tokens: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the facts as the run folder keeps them, with the typed fields under their keys."""
        entry = {**self.facts, "frame": self.keyframe}
        if self.reasoning_tokens is not None:
            entry["reasoning_tokens"] = self.reasoning_tokens
        return entry


class DialogueTooLong(ValueError):
    """A question leaves no room for an answer in `rollout.max_model_len`."""


@dataclass(frozen=True)
class Episode:
    """One finished dialogue.

    Attributes:
        error: traceback of a FAILED one, or the reason if it is too long.
        too_long: a FAILED one without room for an answer: the fault of its sample or its answers,
            not of the program.
        seconds: time from its first question to its end, while others played beside it; 0 if
            nobody measured it.
    """

    sample_uid: str
    turns: tuple[Turn, ...]
    end: End
    answer: Answer = field(default_factory=Answer)
    error: str = ""
    too_long: bool = False
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Reward:
    """The reward of one episode.

    Attributes:
        total: the weighted sum of the parts.
        parts: value of each term before its weight.
        per_turn: weighted reward of each trainable turn, adding up to `total`. Empty if the system
            does not tell turns apart.
        masks: some of the masks that it was computed from, each with its frame, for people to look
            at. Rewards are equal without them.
        seconds: time in which its whole group was scored, masks included; 0 if nobody measured it.
    """

    total: float
    parts: dict[str, float]
    per_turn: tuple[float, ...] = ()
    masks: tuple[tuple[int, Rle], ...] = field(default=(), compare=False, repr=False)
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Group:
    """The G episodes of one sample.

    Attributes:
        sample_uid: the sample.
        episodes: its episodes.
        rewards: None for a FAILED episode; empty before scoring.
        advantages_G: 0 for a FAILED episode; empty before `core.grpo.judge`.
        entropies_G: entropy_N of each episode as in `Update.entropies`, None for one that was not
            learned; empty before the update.
    """

    sample_uid: str
    episodes: tuple[Episode, ...]
    rewards: tuple[Reward | None, ...] = ()
    advantages_G: tuple[float, ...] = ()
    entropies_G: tuple[np.ndarray | None, ...] = field(default=(), compare=False, repr=False)

    @property
    def informative(self) -> bool:
        """False for a group with equal rewards: it carries no policy gradient."""
        return any(a != 0.0 for a in self.advantages_G)


# Pixels by digest, uint8 (height, width, 3).
MediaTable = dict[str, np.ndarray]
# Where the images of a group come from: frames of a video, or a table for those of another origin.
MediaSource = Video | MediaTable
# Masks for a reward, episode by episode: bool (H, W) or None. `MaskMaker` says which masks.
EpisodeMasks = Sequence[Sequence[np.ndarray | None]]


class Ask(Protocol):
    """The policy as a system sees it: one dialogue, to which each call adds a turn."""

    @property
    def version(self) -> int:
        """Version of the weights in use now."""
        ...

    async def __call__(
        self,
        content: Sequence[str | View],
        *,
        max_tokens: int,
        trainable: bool = True,
    ) -> Turn:
        """Send text and frames to the policy and return the turn."""
        ...

    async def auxiliary(
        self,
        content: Sequence[str | View],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
    ) -> Turn:
        """Ask in a dialogue of its own about the same video; this dialogue shows no trace of it.

        The turn is not trainable. Calls may run at the same time and are sampled independently.
        """
        ...

    def count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        ...


# The maker of the masks that a reward needs, and which masks these are:
#   ""           the reward needs no masks
#   "segmenter"  a mask of each mask prompt, on its own frame alone
#   "tracker"    a mask of each frame of the video: the union of what the prompts are tracked to
#   "policy"     a mask of each of the answer's [SEG] tokens
MaskMaker = Literal["", "segmenter", "tracker", "policy"]


class System(Protocol):
    """A published method: how an episode is played and rewarded."""

    name: str

    @property
    def system_message(self) -> str:
        """The method's own message before the first turn; empty for none."""
        ...

    def shown(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Return the sample as training shows it to `play`.

        That is `sample.bare`, with hints for values that the method itself finds at inference.
        Evaluation always shows `sample.bare`.
        """
        ...

    async def play(self, sample: Sample, ask: Ask) -> Episode:
        """Play one episode about a bare sample."""
        ...

    @property
    def uses_hints(self) -> bool:
        """True if `play` asks auxiliary questions (`Ask.auxiliary`) about a sample without hints.

        A run asks them once, with the weights it starts from; they are never trained on.
        """
        ...

    def hints(self, episode: Episode) -> Hints | None:
        """Return the answers to the episode's auxiliary questions, for later episodes."""
        ...

    @property
    def masks_by(self) -> MaskMaker:
        """The maker of the masks for `score`; without one, no process is started for masks."""
        ...

    @property
    def needs_masks(self) -> bool:
        """False if `score` does without the true masks of a target that has a `place`."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks (`Notes.task`) that `demonstrate` knows beside finding the targets."""
        ...

    def score(
        self,
        sample: Sample,
        episodes: Sequence[Episode],
        masks: EpisodeMasks | None = None,
    ) -> list[Reward]:
        """Return the reward of each episode of one sample."""
        ...

    def demonstrate(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[tuple[list[str | View], str], ...]:
        """Return the ideal dialogue from the ground truth: pairs of user content and completion."""
        ...


@dataclass(frozen=True)
class Update:
    """The report of the optimizer steps on one batch.

    Attributes:
        seconds: time that the learner computed; its longest rank.
        entropies: entropy_N of the trained tokens of each learned episode, by its number in the
            batch: of the learner's distribution of the token, in nats, at the temperature of the
            sampling and before the first optimizer step.
    """

    loss: float
    grad_norm: float
    metrics: dict[str, float]
    seconds: float = 0.0
    entropies: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)
