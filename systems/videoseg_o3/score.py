"""The terms of VideoSEG-O3's reward (docs/spec/videoseg_o3.md, Rewards).

as_released reads the last turn as the release's rewards do (`read_last`): its span is [start, end),
although frames up to and with `end` were shown, so a span of one frame is empty. Two empty masks on
a keyframe have IoU 0, and an episode may end with a <select>.

as_intended reads the last turn as the rollout does, with `end` inside. The last turn must answer to
keep its form. Two empty masks on a keyframe have IoU 1 where the target is in no frame at all, else
0: a keyframe is to show the target, and 1 would reward an empty mask on a wrong keyframe as the
largest gain (chosen by this project).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.masks import area, decode, union_of_targets
from core.points import resize_mask
from core.types import Episode, EpisodeMasks, Reward, Rle, Sample, SegPrompt
from rewards.iou import mask_iou
from rewards.reward_mode import RewardMode
from rewards.segments import gain_over_turns, gain_over_video, iou_reward
from rewards.temporal_search import keyframe_hit, span_iou, span_reward
from rewards.turn_form import all_in_form, share_of_steps
from systems.base import said, weighted_rewards
from systems.videoseg_o3.answers import is_answer, keeps_form, named_steps, read_last, read_turn
from systems.videoseg_o3.options import MASK_TERMS, VideoSegO3Options


@dataclass(frozen=True)
class RewardedMask:
    """A drawn mask that counts for the reward.

    Attributes:
        episode: its number in the group.
        seg: the [SEG] token and the frame.
        mask_HW: bool.
        several: [SEG] tokens in the last turn of its episode.
    """

    episode: int
    seg: SegPrompt
    mask_HW: np.ndarray
    several: int


def rewards_of(
    sample: Sample,
    episodes: Sequence[Episode],
    masks: EpisodeMasks | None,
    options: VideoSegO3Options,
) -> list[Reward]:
    """Return the weighted sum of the terms for each episode. The truth is the union of all targets.

    Raises:
        ValueError: terms with a weight need masks, and the policy draws none.
    """
    rles_F = union_of_targets(sample)
    visible_F = torch.tensor([rle is not None and area(rle) > 0 for rle in rles_F])
    texts_GT = [[said(turn) for turn in episode.turns] for episode in episodes]
    terms = text_terms(texts_GT, visible_F, options.rewards, options.bare_json)

    weights = options.all_weights
    if masks is not None:
        terms |= mask_terms(episodes, masks, rles_F, visible_F, options.rewards)
    else:
        needed = [name for name in MASK_TERMS if weights[name]]
        if needed:
            raise ValueError(
                f"the rewards {', '.join(needed)} need masks, and this policy draws none: "
                "give their system.options.weights 0, or run with a policy that has a mask head"
            )
    return weighted_rewards(terms, weights)


def text_terms(
    texts_GT: Sequence[Sequence[str]], visible_F: Tensor, mode: RewardMode, bare_json: bool = False
) -> dict[str, Tensor]:
    """Return the terms that need no mask, float64 (G,) each; "tiou" is the true temporal IoU.

    Args:
        texts_GT: the text of each turn.
        visible_F: whether each frame of the video shows the target.
        mode: the formulas.
        bare_json: read a <select> without <VTG>.
    """
    last_G = [texts[-1] for texts in texts_GT]
    spans_G2, keyframes_G = _last_looks(last_G, len(visible_F), mode, bare_json)
    kept_GT = []
    named_GT = []
    for texts in texts_GT:
        kept = [keeps_form(text) for text in texts]
        if mode == "as_intended":
            kept.append(is_answer(texts[-1]))
        kept_GT.append(kept)
        named_GT.append([named_steps(text) for text in texts])

    is_span_G = spans_G2[:, 0] < spans_G2[:, 1]
    return {
        "format": all_in_form(kept_GT),
        "steps": share_of_steps(named_GT),
        "span": span_reward(spans_G2, visible_F, mode),
        "keyframe": keyframe_hit(keyframes_G, visible_F),
        "tiou": torch.where(is_span_G, span_iou(spans_G2, visible_F), 0.0),
    }


def mask_terms(
    episodes: Sequence[Episode],
    masks: EpisodeMasks,
    rles_F: Sequence[Rle | None],
    visible_F: Tensor,
    mode: RewardMode,
) -> dict[str, Tensor]:
    """Return the terms of masks, float64 (G,) each.

    Args:
        episodes: of one group.
        masks: the drawn masks, all of one size.
        rles_F: the true mask of each frame, resized to the drawn ones where sizes differ.
        visible_F: whether each true mask shows anything.
        mode: the formulas.
    """
    rewarded: list[RewardedMask] = []
    for number, (episode, own) in enumerate(zip(episodes, masks, strict=True)):
        rewarded += _rewarded_masks(number, episode, own)
    never_visible = not visible_F.any()
    empty_keyframe = 1.0 if mode == "as_intended" and never_visible else 0.0
    ious = _ious(rewarded, rles_F, empty_keyframe)

    turns_G = torch.tensor([len(episode.turns) for episode in episodes])
    key_GT, video_GF = _iou_tables(episodes, rewarded, ious)
    last_G = key_GT.gather(1, (turns_G - 1)[:, None])[:, 0]
    return {
        "mask": iou_reward(video_GF),
        "keyframe_gain": gain_over_video(last_G, video_GF.mean(dim=1), turns_G, mode),
        "progress": gain_over_turns(key_GT, turns_G, mode),
    }


def _iou_tables(
    episodes: Sequence[Episode], rewarded: Sequence[RewardedMask], ious: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """IoU on each turn's keyframe, (G, T), and on the larger frames, (G, F); 0 without a mask."""
    spatial = episodes[0].answer.facts["spatial"]
    most_turns = max(len(episode.turns) for episode in episodes)
    key_GT = torch.zeros(len(episodes), most_turns, dtype=torch.float64)
    video_GF = torch.zeros(len(episodes), len(spatial), dtype=torch.float64)
    for each, iou in zip(rewarded, ious, strict=True):
        if each.seg.role == "keyframe":
            # A later [SEG] of the turn takes the place of an earlier one.
            key_GT[each.episode, each.seg.turn] = iou
        else:
            column = spatial.index(each.seg.frame)
            video_GF[each.episode, column] += iou / each.several
    return key_GT, video_GF


def _rewarded_masks(
    number: int, episode: Episode, masks: Sequence[np.ndarray | None]
) -> list[RewardedMask]:
    """The masks on each turn's keyframe, and those of the last turn on the larger frames.

    Of several [SEG] in a turn the last one counts on the keyframe, and their mean on the other
    frames. A turn without [SEG], or a [SEG] without a mask, has IoU 0.
    """
    last = len(episode.turns) - 1
    segs = episode.answer.segs
    several = len({seg.position for seg in segs if seg.turn == last})
    rewarded = []
    for seg, mask_HW in zip(segs, masks, strict=True):
        counts = seg.role == "keyframe" or (seg.role == "video" and seg.turn == last)
        if counts and mask_HW is not None:
            rewarded.append(RewardedMask(number, seg, mask_HW, several))
    return rewarded


def _ious(
    rewarded: Sequence[RewardedMask], rles_F: Sequence[Rle | None], empty_keyframe: float
) -> list[float]:
    """IoU of each mask with the truth of its frame.

    Two empty masks have `empty_keyframe` on a keyframe, else 1.
    """
    if not rewarded:
        return []
    size = rewarded[0].mask_HW.shape
    truth = {}
    for frame in {each.seg.frame for each in rewarded}:
        truth[frame] = _true_mask(rles_F[frame], size)

    masks_NHW = torch.tensor(np.stack([each.mask_HW for each in rewarded]), dtype=torch.bool)
    truth_NHW = torch.tensor(np.stack([truth[each.seg.frame] for each in rewarded]))
    empties = []
    for each in rewarded:
        empties.append(empty_keyframe if each.seg.role == "keyframe" else 1.0)
    ious: list[float] = mask_iou(masks_NHW, truth_NHW, torch.tensor(empties)).tolist()
    return ious


def _true_mask(rle: Rle | None, size: tuple[int, ...]) -> np.ndarray:
    if rle is None:
        return np.zeros(size, dtype=bool)
    mask_HW = decode(rle)
    if mask_HW.shape == size:
        return mask_HW
    return resize_mask(mask_HW, (size[0], size[1]))


def _last_looks(
    texts_G: Sequence[str], num_frames: int, mode: RewardMode, bare_json: bool
) -> tuple[Tensor, Tensor]:
    """The last span of each episode, half-open, (0, 0) for none, and its keyframe, -1 for none."""
    rows = []
    for text in texts_G:
        span = (0, 0)
        keyframe = -1
        if mode == "as_released":
            span, keyframe = read_last(text, num_frames)
        else:
            look = read_turn(text, num_frames, bare_json).look
            if look is not None:
                span = (look.start, look.stop)
                keyframe = look.keyframe
        rows.append((*span, keyframe))
    rows_G3 = torch.tensor(rows)
    return rows_G3[:, :2], rows_G3[:, 2]
