"""Official SAM 2 checkpoints: the table, what tells them apart, and masks equal to Meta's.

Narrow checkpoints are made with the official configurations of the package; those of official size
come from ../shared, if it is there.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sam2.build_sam import build_sam2_video_predictor
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from core.types import MaskPrompt
from models.segmenters import make, sam2_build
from models.segmenters.sam2 import Sam2Segmenter
from models.segmenters.sam2_files import FILES, NEW_IN_2_1, VERSIONS, OfficialFile, recognise
from models.segmenters.sam2_shape import OFFICIAL, TINY, Shape

CONFIGS = Path(inspect.getfile(SAM2Base)).parents[1] / "configs"
FOLDER = {"2.0": "sam2", "2.1": "sam2.1"}

# Frames: object pointers count time in at most 16 steps.
FRAMES = 17
NARROW = Shape(24, 1, (1, 1, 2, 1), (3,), image_size=128)
OVERRIDES = [
    "++model.image_size=128",
    "++model.image_encoder.trunk.embed_dim=24",
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[192,96,48,24]",
    "++model.memory_attention.layer.self_attention.feat_sizes=[8,8]",
    "++model.memory_attention.layer.cross_attention.feat_sizes=[8,8]",
]
PROMPTS = (
    MaskPrompt(0, (20.0, 25.0, 75.0, 80.0)),
    MaskPrompt(0, None, ((45.0, 50.0),), (1,)),
    MaskPrompt(0, (20.0, 25.0, 75.0, 80.0), ((45.0, 50.0), (5.0, 5.0)), (1, 0)),
)


def official_model(version: str, size: str) -> Any:
    """The section `model` of an official configuration."""
    name = f"{FOLDER[version]}_{size}.yaml"
    return OmegaConf.load(CONFIGS / FOLDER[version] / name).model


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_shapes_are_those_of_the_package(file: OfficialFile) -> None:
    """Keys that a configuration leaves out are Hiera's defaults."""
    defaults = inspect.signature(Hiera.__init__).parameters
    key_of = {
        "embed_dim": "embed_dim",
        "num_heads": "num_heads",
        "stages": "stages",
        "window_spec": "window_spec",
        "global_att_blocks": "global_att_blocks",
        "window_background": "window_pos_embed_bkg_spatial_size",
    }
    model = official_model(file.version, file.size)
    trunk = model.image_encoder.trunk
    for field, key in key_of.items():
        official = trunk.get(key, defaults[key].default)
        if not isinstance(official, int):
            official = tuple(official)
        assert getattr(file.shape, field) == official, field
    assert file.shape.image_size == model.image_size
    assert file.shape.num_maskmem == model.num_maskmem
    assert not file.shape.dense_prompt


@pytest.mark.parametrize("version", VERSIONS)
def test_a_built_model_has_the_switches_of_its_version(version: str) -> None:
    """All that an official configuration sets on the model itself."""
    built = sam2_build.build(replace(NARROW, version=version))
    defaults = inspect.signature(SAM2Base.__init__).parameters
    # True in Meta's predictor, whatever the configuration says.
    own = {"binarize_mask_from_pts_for_mem_enc"}
    checked = set()
    for size in OFFICIAL:
        model = official_model(version, size)
        assert (built.no_obj_embed_spatial is not None) == model.get("no_obj_embed_spatial", False)
        for key in defaults.keys() - own - {"no_obj_embed_spatial"}:
            value = model.get(key, defaults[key].default)
            if isinstance(value, (bool, float)) and hasattr(built, key):
                assert getattr(built, key) == value, key
                checked.add(key)
    assert len(checked) > 15


def test_names_are_the_releases() -> None:
    assert len({file.name for file in FILES}) == 2 * len(OFFICIAL)
    for file in FILES:
        words = {"t": "tiny", "s": "small", "b+": "base_plus", "l": "large"}
        word = words[file.size.removeprefix("hiera_")]
        assert file.name == f"{FOLDER[file.version]}_hiera_{word}.pt"


def test_the_table_is_light() -> None:
    """`ray_jobs.check` and the settings read it before anything is loaded."""
    code = "import sys, models.segmenters.sam2_files; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def sizes_of(file: OfficialFile) -> dict[str, tuple[int, ...]]:
    """The weights of a checkpoint that tell which one it is."""
    sizes: dict[str, tuple[int, ...]] = {}
    sizes["image_encoder.trunk.patch_embed.proj.weight"] = (file.shape.embed_dim, 3, 7, 7)
    for number in range(sum(file.shape.stages)):
        sizes[f"image_encoder.trunk.blocks.{number}.norm1.weight"] = (1,)
        sizes[f"image_encoder.trunk.blocks.{number}.norm1.bias"] = (1,)
    if file.version == "2.1":
        sizes.update(dict.fromkeys(NEW_IN_2_1, (1,)))
    return sizes


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_weights_tell_version_and_size(file: OfficialFile) -> None:
    assert recognise("x.pt", sizes_of(file)) == file
    assert recognise("x.pt", sizes_of(file), file.size) == file


LARGE = FILES[3]
NEWER = FILES[7]


@pytest.mark.parametrize(
    ("sizes", "config", "message"),
    [
        ({"weight": (1,)}, "", "x.pt is no SAM 2 checkpoint: it has no .*; give one of sam2_hiera"),
        (sizes_of(LARGE), "hiera_xl", "'hiera_xl' is not an official SAM 2 shape; leave it empty"),
        (
            sizes_of(LARGE),
            "hiera_s",
            "segmenter.config=hiera_s: x.pt has the shape hiera_l; leave segmenter.config empty, "
            "or give one of sam2_hiera_small.pt, sam2.1_hiera_small.pt",
        ),
        (
            dict(list(sizes_of(LARGE).items())[:21]),
            "",
            "x.pt is no official SAM 2 checkpoint, or a cut one: .* width 144 and 10 blocks",
        ),
        (
            dict(list(sizes_of(NEWER).items())[:-1]),
            "",
            "has no_obj_embed_spatial as SAM 2.1 does, but no obj_ptr_tpos_proj.bias: .* is cut",
        ),
    ],
)
def test_other_files_are_refused_with_a_remedy(
    sizes: dict[str, tuple[int, ...]], config: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        recognise("x.pt", sizes, config)


def official_predictor(version: str, overrides: list[str]) -> SAM2VideoPredictor:
    """Meta's predictor with random weights, whose masks depend on prompt, frame and memory."""
    torch.manual_seed(3)
    config = f"configs/{FOLDER[version]}/{FOLDER[version]}_hiera_t.yaml"
    predictor = build_sam2_video_predictor(
        config, device="cpu", hydra_overrides_extra=list(overrides)
    )
    assert isinstance(predictor, SAM2VideoPredictor)
    # Its holes are filled by a CUDA extension.
    predictor.fill_hole_area = 0
    torch.nn.init.constant_(predictor.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    for parameter in predictor.memory_attention.parameters():
        parameter.data *= 3
    return predictor


@pytest.fixture(scope="module", params=VERSIONS)
def predictor(request: pytest.FixtureRequest) -> SAM2VideoPredictor:
    torch.set_num_threads(1)
    return official_predictor(request.param, OVERRIDES)


@pytest.fixture
def checkpoint(
    predictor: SAM2VideoPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The narrow model's official checkpoint, with its shape in the place of hiera_t's."""
    monkeypatch.setitem(OFFICIAL, "hiera_t", NARROW)
    path = tmp_path / "mine.pt"
    torch.save({"model": predictor.state_dict()}, path)
    return path


def video(folder: Path, side: int, height: int, width: int) -> np.ndarray:
    """Coarse noise as Meta's predictor reads it, a folder of JPEGs; returns its pixels."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    frames = []
    for number in range(FRAMES):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        frame = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        frame.resize((side, side)).save(folder / f"{number}.jpg", quality=100)
        frames.append(np.array(Image.open(folder / f"{number}.jpg")))
    return np.stack(frames)


@torch.inference_mode()
def official_masks(predictor: SAM2VideoPredictor, folder: Path, prompt: MaskPrompt) -> np.ndarray:
    """Meta's masks from a prompt on frame 0, bool (F, H, W)."""
    state = predictor.init_state(str(folder))
    given: dict[str, Any] = {}
    if prompt.box is not None:
        given["box"] = np.array(prompt.box, np.float32)
    if prompt.points:
        given["points"] = np.array(prompt.points, np.float32)
        given["labels"] = np.array(prompt.labels, np.int32)
    predictor.add_new_points_or_box(state, 0, 1, **given)
    masks = []
    for _, _, logits in predictor.propagate_in_video(state):
        masks.append(logits[0, 0].numpy() > 0)
    return np.stack(masks)


def least_iou(a_FHW: np.ndarray, b_FHW: np.ndarray) -> float:
    both_F = (a_FHW & b_FHW).sum((1, 2))
    either_F = (a_FHW | b_FHW).sum((1, 2))
    return float((both_F / either_F).min())


def test_masks_are_those_of_metas_predictor(
    predictor: SAM2VideoPredictor, checkpoint: Path, tmp_path: Path
) -> None:
    # Of another size than the model's input: both resize them.
    frames = video(tmp_path / "video", 120, 128, 128)
    ours = make("sam2", {"path": str(checkpoint)})
    for prompt in PROMPTS:
        theirs = official_masks(predictor, tmp_path / "video", prompt)
        assert 0.02 < theirs.mean() < 0.98
        assert (theirs[1] != theirs[2]).any()
        assert least_iou(ours.segment(frames, [prompt])[0], theirs) > 0.998


def test_the_versions_make_different_masks_of_the_same_weights(tmp_path: Path) -> None:
    """Else the comparison with Meta's would prove nothing about the version."""
    weights = official_predictor("2.1", OVERRIDES).state_dict()
    frames = video(tmp_path / "video", 128, 128, 128)
    masks = []
    for version in VERSIONS:
        shape = replace(NARROW, version=version)
        model = sam2_build.build(shape)
        model.load_state_dict(weights, strict=version == "2.1")
        masks.append(Sam2Segmenter(model, shape).segment(frames, [PROMPTS[0]])[0])
    assert least_iou(*masks) < 0.99


def test_the_best_of_three_masks_of_the_prompted_frame(
    predictor: SAM2VideoPredictor, checkpoint: Path, tmp_path: Path
) -> None:
    """`segmenter.multimask` against Meta's image predictor, as Seg-Zero asks it."""
    frame = video(tmp_path / "video", 128, 128, 128)[0]
    image_predictor = SAM2ImagePredictor(predictor)
    # Written down there for images of 1024 pixels.
    image_predictor._bb_feat_sizes = [(32, 32), (16, 16), (8, 8)]
    with torch.inference_mode():
        image_predictor.set_image(frame)
    ours = make("sam2", {"path": str(checkpoint), "multimask": True})
    single = make("sam2", {"path": str(checkpoint)})
    # Else an unstable single mask gives way to the best of three as well.
    assert isinstance(single, Sam2Segmenter)
    single.model.sam_mask_decoder.dynamic_multimask_via_stability = False
    prompt = PROMPTS[2]
    masks_3HW, scores_3, _ = image_predictor.predict(
        np.array(prompt.points), np.array(prompt.labels), np.array(prompt.box)
    )
    best_HW = masks_3HW[scores_3.argmax()] > 0
    assert least_iou(ours.image_masks([frame], [prompt])[0][None], best_HW[None]) > 0.99
    assert least_iou(single.image_masks([frame], [prompt])[0][None], best_HW[None]) < 0.99


def test_the_tiny_model_has_one_mask_only(tmp_path: Path) -> None:
    sam2_build.save(tmp_path, sam2_build.build(TINY), TINY)
    with pytest.raises(ValueError, match="segmenter.multimask=true: .* gives one mask only"):
        make("sam2", {"path": str(tmp_path), "multimask": True})


def weights_in(path: Path) -> dict[str, Tensor]:
    content = torch.load(path, weights_only=True)
    weights: dict[str, Tensor] = content["model"]
    return weights


def test_a_cut_or_changed_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pt"
    cut.write_bytes(checkpoint.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="cut.pt cannot be read as a checkpoint"):
        sam2_build.load(cut)
    text = tmp_path / "page.pt"
    text.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="page.pt cannot be read .* download it again"):
        sam2_build.load(text)
    weights = weights_in(checkpoint)
    del weights["memory_encoder.out_proj.bias"]
    torch.save({"model": weights}, cut)
    with pytest.raises(ValueError, match="1 of .* do not fit, e.g. 'memory_encoder.out_proj.bias'"):
        sam2_build.load(cut)
    torch.save({"model": {"step": 3}}, cut)
    with pytest.raises(ValueError, match="cut.pt holds no weights"):
        sam2_build.load(cut)


def test_a_downloaded_folder_is_refused_with_the_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam2_video"}')
    with pytest.raises(ValueError, match="'sam2_video': not a segmenter .*sam2.1_hiera_large.pt"):
        sam2_build.load(tmp_path)
    (tmp_path / "sam2.1_hiera_large.pt").touch()
    with pytest.raises(ValueError, match="is a folder; give the file .*sam2.1_hiera_large.pt"):
        sam2_build.load(tmp_path)


def shared_tools() -> Path:
    """The folder of tools beside the repository, or in the environment variable RAYVOS_SHARED."""
    return Path(os.environ.get("RAYVOS_SHARED", Path(__file__).parents[4] / "shared")) / "tools"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_checkpoint_of_official_size_segments(version: str, tmp_path: Path) -> None:
    builder = shared_tools() / "build_real_shapes.py"
    if not builder.is_file():
        pytest.skip(f"no {builder}")
    path = tmp_path / "official.pt"
    name = f"{FOLDER[version]}_hiera_tiny"
    command = [sys.executable, "-W", "ignore", str(builder), name, str(path)]
    subprocess.run(command, check=True, capture_output=True)
    model, shape = sam2_build.load(path)
    assert shape == replace(OFFICIAL["hiera_t"], version=version)
    torch.nn.init.constant_(model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, 3.0)
    frames = video(tmp_path / "video", 96, 64, 96)[:2]
    masks_FHW = Sam2Segmenter(model, shape).segment(frames, [PROMPTS[0]])[0]
    assert masks_FHW.any((1, 2)).all()
    assert not masks_FHW.all((1, 2)).any()
