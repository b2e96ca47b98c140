"""What a group's turns and masks of VideoSEG-O3 are worth, part by part (SPEC B.4).

Modes. as_released reads the last turn as the rewards of the release do (`read_last`): its part is [start, end), though
frames up to and with `end` were shown, so a part of one frame says nothing; two empty masks on a keyframe have IoU 0;
an episode may end with a <select>. as_intended reads it as the rollout does, `end` inside; the last turn must answer to
be in form; two empty masks on a keyframe have IoU 1 where the target is in no frame at all, else 0 as well (ours: a
keyframe is to show the target, and 1 would pay an empty mask on one that does not as the largest gain). In both, a
<select> that nothing follows is otherwise worth what an answer is.
This file knows no prompt, no weight and no ground truth but masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.masks import decode
from core.points import resize_mask
from core.types import Episode, EpisodeMasks, Rle, SegPrompt
from rewards.iou import mask_iou
from rewards.segments import gain_over_turns, gain_over_video, iou_reward
from rewards.temporal_search import Mode, keyframe_hit, span_iou, span_reward
from rewards.turn_form import all_in_form, share_of_steps
from systems.videoseg_o3.answers import is_answer, keeps_form, named_steps, read_last, read_turn


@dataclass(frozen=True)
class Judged:
    """A mask that is worth something. `several`: [SEG] tokens in the last turn of its episode."""

    episode: int
    seg: SegPrompt
    mask_HW: np.ndarray
    several: int


def text_parts(
    said_GT: Sequence[Sequence[str]], visible_F: Tensor, mode: Mode, bare_json: bool = False
) -> dict[str, Tensor]:
    """Parts that need no mask, float64 (G,) each. `said_GT`: what each turn says; "tiou" is the true tIoU."""
    spans_G2, frames_G = _last_looks(
        [said[-1] for said in said_GT], len(visible_F), mode, bare_json
    )
    kept_GT = [[keeps_form(text) for text in said] for said in said_GT]
    if mode == "as_intended":
        kept_GT = [
            [*kept, is_answer(said[-1])] for kept, said in zip(kept_GT, said_GT, strict=True)
        ]
    says_G = spans_G2[:, 0] < spans_G2[:, 1]
    return {
        "format": all_in_form(kept_GT),
        "steps": share_of_steps([[named_steps(text) for text in said] for said in said_GT]),
        "span": span_reward(spans_G2, visible_F, mode),
        "keyframe": keyframe_hit(frames_G, visible_F),
        "tiou": torch.where(says_G, span_iou(spans_G2, visible_F), 0.0),
    }


def mask_parts(
    episodes: Sequence[Episode],
    masks: EpisodeMasks,
    rles_F: Sequence[Rle | None],
    visible_F: Tensor,
    mode: Mode,
) -> dict[str, Tensor]:
    """Parts of masks, float64 (G,) each.

    Args:
        masks: all of one size.
        rles_F: the true mask of each frame of the video, brought to the size of the drawn ones where that is another.
        visible_F: where it is not empty.
    """
    turns_G = torch.tensor([len(e.turns) for e in episodes])
    spatial = episodes[0].answer.facts["spatial"]
    key_GT = torch.zeros(len(episodes), int(turns_G.max()), dtype=torch.float64)
    video_GF = torch.zeros(len(episodes), len(spatial), dtype=torch.float64)
    judged = [
        j for g, (e, m) in enumerate(zip(episodes, masks, strict=True)) for j in _judged(g, e, m)
    ]
    empty_keyframe = 1.0 if mode == "as_intended" and not visible_F.any() else 0.0
    for one, iou in zip(judged, _ious(judged, rles_F, empty_keyframe), strict=True):
        if one.seg.role == "keyframe":
            key_GT[one.episode, one.seg.turn] = (
                iou  # a later [SEG] of the turn takes the place of an earlier one
            )
        else:
            video_GF[one.episode, spatial.index(one.seg.frame)] += iou / one.several
    last_G = key_GT.gather(1, (turns_G - 1)[:, None])[:, 0]
    return {
        "mask": iou_reward(video_GF),
        "keyframe_gain": gain_over_video(last_G, video_GF.mean(dim=1), turns_G, mode),
        "progress": gain_over_turns(key_GT, turns_G, mode),
    }


def _judged(number: int, episode: Episode, masks: Sequence[np.ndarray | None]) -> list[Judged]:
    """The masks of an episode that are worth something: on each turn's keyframe, and in the last turn on other frames.

    Of several [SEG] in a turn the last one counts on the keyframe, their mean on the other frames. A turn without
    [SEG], or a [SEG] without a mask, has IoU 0.
    """
    last = len(episode.turns) - 1
    segs = episode.answer.segs
    several = len({seg.position for seg in segs if seg.turn == last})
    return [
        Judged(number, seg, mask_HW, several)
        for seg, mask_HW in zip(segs, masks, strict=True)
        if mask_HW is not None
        and (seg.role == "keyframe" or (seg.role == "video" and seg.turn == last))
    ]


def _ious(
    judged: Sequence[Judged], rles_F: Sequence[Rle | None], empty_keyframe: float
) -> list[float]:
    """IoU of each mask with the truth of its frame; where both are empty, `empty_keyframe` on a keyframe, else 1."""
    if not judged:
        return []
    hw = judged[0].mask_HW.shape
    true = {frame: _truth(rles_F[frame], hw) for frame in {one.seg.frame for one in judged}}
    masks_NHW = torch.tensor(np.stack([one.mask_HW for one in judged]), dtype=torch.bool)
    truth_NHW = torch.tensor(np.stack([true[one.seg.frame] for one in judged]))
    empty_N = torch.tensor(
        [empty_keyframe if one.seg.role == "keyframe" else 1.0 for one in judged]
    )
    found: list[float] = mask_iou(masks_NHW, truth_NHW, empty_N).tolist()
    return found


def _truth(rle: Rle | None, hw: tuple[int, ...]) -> np.ndarray:
    mask_HW = np.zeros(hw, dtype=bool) if rle is None else decode(rle)
    return mask_HW if mask_HW.shape == hw else resize_mask(mask_HW, (hw[0], hw[1]))


def _last_looks(
    said_G: Sequence[str], num_frames: int, mode: Mode, bare_json: bool
) -> tuple[Tensor, Tensor]:
    """The part that each episode ends with, half-open, (0, 0) for none, and its keyframe, -1 for none."""
    rows = []
    for text in said_G:
        if mode == "as_released":
            span, keyframe = read_last(text, num_frames)
        else:
            look = read_turn(text, num_frames, bare_json).look
            span, keyframe = ((look.start, look.stop), look.keyframe) if look else ((0, 0), -1)
        rows.append((*span, keyframe))
    rows_G3 = torch.tensor(rows)
    return rows_G3[:, :2], rows_G3[:, 2]
