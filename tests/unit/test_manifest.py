"""Manifests: what a small one means, and what a wrong one is told."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

import pytest

import convq
from convq.errors import ModelBroken
from convq.repository.manifest import Manifest
from convq.repository.model_folders import MOST_MODELS, ModelRepository, default_root
from convq.repository.version_files import VersionFiles


def written(folder: Path, text: str) -> Path:
    (folder / "manifest.toml").write_text(textwrap.dedent(text), encoding="utf-8")
    return folder


def test_an_empty_manifest_is_a_model_with_documented_defaults(tmp_path: Path) -> None:
    manifest = Manifest.read(written(tmp_path, ""))

    assert ("NCHW", "rgb", "stretch", "bilinear") == (
        manifest.input.layout,
        manifest.input.color,
        manifest.input.resize,
        manifest.input.interpolation,
    )
    assert (16 * 2**20, 50_000_000, 64, 30.0, 10.0) == tuple(manifest.limits.model_dump().values())
    assert (0.0, "auto", 1, None) == (
        manifest.batching.max_wait_ms,
        manifest.runtime.device,
        manifest.runtime.threads,
        manifest.classes,
    )


def test_one_number_is_a_value_for_every_channel(tmp_path: Path) -> None:
    manifest = Manifest.read(written(tmp_path, "[input]\nscale = 1\nmean = 127\nstd = [128, 64.5, 32]\n"))

    assert ((127.0,), (128.0, 64.5, 32.0)) == (manifest.input.mean, manifest.input.std)
    assert manifest.input.normalises


def test_an_output_may_be_an_image_of_other_levels(tmp_path: Path) -> None:
    text = "[[outputs]]\nname = 'y'\nmeaning = 'image'\nscale = 255\noffset = -0.5\n[[outputs]]\nname = 'z'\n"
    manifest = Manifest.read(written(tmp_path, text))

    assert [("image", 255.0, -0.5), ("tensor", 1.0, 0.0)] == [
        (output.meaning, output.scale, output.offset) for output in manifest.outputs
    ]


def test_a_model_may_take_no_images_at_all(tmp_path: Path) -> None:
    spec = Manifest.read(written(tmp_path, "[input]\ncolor = 'none'\nname = 'x'\ndtype = 'float32'\n")).input

    assert ("none", "x", "float32", False) == (spec.color, spec.name, spec.dtype, spec.normalises)
    assert spec is spec.sized(None, None)


def test_a_manifest_cannot_be_changed(tmp_path: Path) -> None:
    manifest: Any = Manifest.read(written(tmp_path, ""))

    with pytest.raises(ValueError, match="frozen"):
        manifest.limits.max_batch = 3


WRONG = {
    "unknown key": ("[input]\nname = 'x'\ncolour = 'gray'", ":3: input.colour: unknown key"),
    "unknown table": ("[inputs]\nname = 'x'", ":1: inputs: unknown key"),
    "wrong word": ("[input]\n\n# why\nlayout = 'CHW'", ":4: input.layout: expected 'NCHW' or 'NHWC', found 'CHW'"),
    "wrong type": ("[limits]\nmax_batch = '8'", ":2: limits.max_batch: expected a valid integer, found '8'"),
    "truth for a number": ("[input]\nheight = true", ":2: input.height: expected a valid integer, found 'True'"),
    "out of range": ("[limits]\nmax_batch = 0", ":2: limits.max_batch: expected greater than or equal to 1, found '0'"),
    "not finite": ("[input]\nscale = inf", ":2: input.scale: expected a finite number, found 'inf'"),
    "two channels": ("[input]\nmean = [1, 2]", ":2: input.mean: expected one value, or one for each of three channels"),
    "zero std": ("[input]\nstd = 0", ":2: input.std: expected values above 0"),
    "zero scale": ("[input]\nscale = 0.0", ":2: input.scale: expected a number other than 0, as pixels are"),
    "gray of three": ("[input]\ncolor = 'gray'\nmean = [1, 2, 3]", ":1: input: expected one value each"),
    "pad beyond height": ("[input]\nheight = 4\npad = 2", ":1: input: expected height above twice the pad of 2"),
    "short side of stretch": ("[input]\nshort_side = 9", ":1: input: expected short_side only together with"),
    "start of a crop": ("[input]\nresize = 'crop'\nalign = 'start'", ":1: input: expected align = 'start' only"),
    "unknown align": ("[input]\nalign = 'center'", ":2: input.align: expected 'centre' or 'start', found 'center'"),
    "a version that no folder can be": (
        "[versions]\nrequire = 1000000000",
        ":2: versions.require: expected less than or equal to 999999999",
    ),
    "a candidate that must answer": (
        "[versions]\nrequire = 2\n[rollout]\nversion = 2",
        ": the manifest: expected versions.require and rollout.version to be two versions",
    ),
    "width of a free width": ("[input]\nresize = 'height'\nwidth = 9", ":1: input: expected no width"),
    "second output": (
        "[[outputs]]\nname = 'a'\n[[outputs]]\nname = 'b'\nmeaning = 'label'",
        ":5: outputs.1.meaning: expected 'classes', 'image', 'tensor', 'segments', 'matte', 'depth', 'embedding', ",
    ),
    "one table of outputs": (
        "[input]\nscale = 2\n[outputs]\nname = 'y'",
        ":3: outputs: expected [[outputs]], once for each output",
    ),
    "one output in a line": ("\noutputs = {name = 'y'}", ":2: outputs: expected [[outputs]], once for each output"),
    "one output by dots": ("\noutputs.name = 'y'", ":2: outputs: expected [[outputs]], once for each output"),
    "outputs by their names": ("\n[outputs.y]\nmeaning = 'image'", ":2: outputs: expected [[outputs]]"),
    "an output's name alone": ("outputs = 'y'", ":1: outputs: expected [[outputs]], once for each output, found 'y'"),
    "nameless output": ("[[outputs]]\nmeaning = 'tensor'", ":1: outputs.0.name: expected Field required"),
    "no labels": ("[[outputs]]\nname = 'a'\nmeaning = 'classes'", ":1: outputs.0: expected a labels file"),
    "labels of a tensor": (
        "[[outputs]]\nname = 'a'\nlabels = 'l.txt'",
        "labels only together with meaning = 'classes', ",
    ),
    "scale of a tensor": (
        "[[outputs]]\nname = 'a'\nscale = 2",
        ":1: outputs.0: expected scale only together with meaning = 'image', 'depth' or 'value'",
    ),
    "infinite offset": (
        "[[outputs]]\nname = 'a'\nmeaning = 'image'\noffset = nan",
        ":4: outputs.0.offset: expected a finite number",
    ),
    "labels of an image": (
        "[[outputs]]\nname = 'a'\nmeaning = 'image'\nlabels = 'l.txt'",
        "labels only together with meaning = 'classes', 'segments' or 'text'",
    ),
    "pixels of no image": (
        "[input]\ncolor = 'none'\nlayout = 'NHWC'\nheight = 3",
        ":1: input: expected no height, layout, as color is none: there are no images",
    ),
    "labels elsewhere": (
        "[[outputs]]\nname = 'a'\nmeaning = 'classes'\nlabels = '../l.txt'",
        ":4: outputs.0.labels: expected a path inside",
    ),
    "one name twice": ("[[outputs]]\nname = 'a'\n[feature_maps]\na = 'b'", "every output and feature map once: a"),
    "golden without classes": ("[warmup]\nsample = 's.png'\ngolden = '7'", "expected an output that means classes"),
    "an axis that is none": (
        "[[outputs]]\nname = 'y'\nbatch_axis = 'last'",
        ":3: outputs.0.batch_axis: expected a number from 0 to 7, or 'none', found 'last'",
    ),
    "an axis that is true": ("[[outputs]]\nname = 'y'\nbatch_axis = true", "expected a number from 0 to 7, or 'none'"),
    "an extra input of a word": (
        "[extra_inputs]\nim_shape = 'shape'",
        ":2: extra_inputs.im_shape: expected 'size', 'size_wh', 'ones', or 1 to 64 numbers, found 'shape'",
    ),
    "an extra input of nothing": (
        "[extra_inputs]\na = []",
        ":2: extra_inputs.a: expected 'size', 'size_wh', 'ones', or",
    ),
    "an extra input of infinity": ("[extra_inputs]\na = [1, inf]", "extra_inputs.a: expected 'size'"),
    "an input twice": (
        "[input]\nname = 'x'\n[extra_inputs]\nx = 1",
        "expected input.name to be none of extra_inputs: x is both",
    ),
    "points whose names are no list": (
        "[[outputs]]\nname = 'a'\nmeaning = 'keypoints'\nnames = 'nose'",
        ":4: outputs.0.names: expected a list, found 'nose'",
    ),
    "fit without its side": ("[input]\nresize = 'fit'", ":1: input: expected long_side or short_side, or both"),
    "a long side without fit": (
        "[input]\nlong_side = 9",
        ":1: input: expected long_side only together with resize = 'fit'",
    ),
    "a long side below the short one": (
        "[input]\nresize = 'fit'\nlong_side = 9\nshort_side = 10",
        ":1: input: expected long_side of at least the short_side of 10",
    ),
    "fit into a size": (
        "[input]\nresize = 'fit'\nlong_side = 9\nheight = 9",
        ":1: input: expected no height and width, as resize = 'fit' leaves them free",
    ),
    "a start of nothing": (
        "[input]\nalign = 'start'",
        "align = 'start' only together with resize = 'letterbox' or 'fit'",
    ),
    "segments without labels": (
        "[[outputs]]\nname = 'a'\nmeaning = 'segments'",
        ":1: outputs.0: expected a labels file, as meaning is 'segments'",
    ),
    "text without an alphabet": (
        "[[outputs]]\nname = 'a'\nmeaning = 'text'",
        "expected a labels file, as meaning is 'text'",
    ),
    "points without names": (
        "[[outputs]]\nname = 'a'\nmeaning = 'keypoints'",
        "expected the names of the points, as meaning is 'keypoints'",
    ),
    "a line to a point that is none": (
        "[[outputs]]\nname = 'a'\nmeaning = 'keypoints'\nnames = ['x', 'y']\nskeleton = [[0, 2]]",
        "expected a skeleton of numbers below 2, as there are so many names",
    ),
    "a stretched depth": (
        "[[outputs]]\nname = 'a'\nmeaning = 'depth'\nstretch = true",
        "expected stretch only together with meaning = 'matte'",
    ),
    "softmax of a matte": (
        "[[outputs]]\nname = 'a'\nmeaning = 'matte'\nactivation = 'softmax'",
        "expected activation 'none' or 'sigmoid', as meaning is 'matte'",
    ),
    "sigmoid of an expectation": (
        "[[outputs]]\nname = 'a'\nmeaning = 'value'\nexpectation = true\nactivation = 'sigmoid'",
        "expected activation 'softmax' or 'none', as meaning is 'value' with expectation",
    ),
    "an expectation over one class": (
        "[[outputs]]\nname = 'a'\nmeaning = 'classes'\nlabels = 'l.txt'\nexpectation = true",
        "expected expectation only together with meaning = 'value'",
    ),
    "depth of nothing": (
        "[[outputs]]\nname = 'a'\nmeaning = 'depth'\nscale = 0",
        "expected a scale other than 0, as values are multiplied by it",
    ),
    "time first and batch first": (
        "[[outputs]]\nname = 'a'\nmeaning = 'text'\nlabels = 'l.txt'\ntime_first = true\nbatch_axis = 0",
        "expected batch_axis = 1, or none, as time_first is true",
    ),
    "batch first and second": (
        "[[outputs]]\nname = 'a'\nmeaning = 'text'\nlabels = 'l.txt'\ntime_first = false\nbatch_axis = 1",
        "expected batch_axis = 0, or none, as time_first is false",
    ),
    "a class that no map holds": (
        "[[outputs]]\nname = 'a'\nmeaning = 'segments'\nlabels = 'l.txt'\nignore = 65535",
        ":5: outputs.0.ignore: expected less than or equal to 65534",
    ),
    "two embeddings": (
        "[[outputs]]\nname = 'a'\nmeaning = 'embedding'\n[[outputs]]\nname = 'b'\nmeaning = 'embedding'",
        "expected at most one output that means embedding: an answer has one place for it",
    ),
    "a map of no picture": (
        "[input]\ncolor = 'none'\n[[outputs]]\nname = 'a'\nmeaning = 'matte'",
        "expected no output that means matte, as input.color is none: there are no images",
    ),
    "golden of an embedding": (
        "[[outputs]]\nname = 'a'\nmeaning = 'embedding'\n[warmup]\nsample = 's.png'\ngolden = '7'",
        "expected an output that means classes or text, or detections with labels, as warmup.golden names one",
    ),
    "several": ("[limits]\nmax_batch = 0\nmax_bytes = 0", "(and 1 more)"),
    "no TOML": ("[input\n", "is not TOML"),
}


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_named_with_file_line_key_and_expectation(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ModelBroken) as caught:
        Manifest.read(written(tmp_path, text))

    assert str(caught.value).startswith(str(tmp_path / "manifest.toml"))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_missing_or_no_text_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match=r"manifest\.toml: cannot be read: No such file"):
        Manifest.read(tmp_path)
    (tmp_path / "manifest.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelBroken, match="not UTF-8"):
        Manifest.read(tmp_path)


CLASSES = "[[outputs]]\nname = 'logits'\nmeaning = 'classes'\nlabels = 'labels.txt'\n"


def test_labels_are_one_a_line(tmp_path: Path) -> None:
    files = VersionFiles.of(written(tmp_path, CLASSES), 1)
    (tmp_path / "labels.txt").write_text("drake\r\n tench \ncrane\ncrane\n", encoding="utf-8")

    assert ("drake", "tench", "crane", "crane") == files.labels()


@pytest.mark.parametrize(
    ("content", "expected"), [(b"", ":1: is empty"), (b"a\n\nb", ":2: is empty"), (b"\xff", "UTF-8")]
)
def test_labels_that_cannot_be_meant_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    files = VersionFiles.of(written(tmp_path, CLASSES), 1)
    (tmp_path / "labels.txt").write_bytes(content)

    with pytest.raises(ModelBroken, match=expected):
        files.labels()


def test_several_outputs_may_hold_classes_and_mean_other_things(tmp_path: Path) -> None:
    gender = CLASSES.replace("logits", "gender").replace("labels.txt", "gender.txt") + "activation = 'sigmoid'\n"
    points = "[[outputs]]\nname = 'p'\nmeaning = 'keypoints'\nnames = ['nose', 'ear']\nskeleton = [[0, 1]]\n"
    age = "[[outputs]]\nname = 'age'\nmeaning = 'value'\nexpectation = true\nscale = 3\noffset = -99\n"

    manifest = Manifest.read(written(tmp_path, CLASSES + gender + points + age))

    assert manifest.classes is not None
    assert ("logits", ["logits", "gender"]) == (manifest.classes.name, [one.name for one in manifest.heads])
    assert ["softmax", "sigmoid", "none", "softmax"] == [one.applied for one in manifest.outputs]
    assert ("labels.txt", "gender.txt") == manifest.labels_files
    assert (("nose", "ear"), ((0, 1),)) == (manifest.outputs[2].names, manifest.outputs[2].skeleton)


TEXT = "[[outputs]]\nname = 'y'\nmeaning = 'text'\nlabels = 'alphabet.txt'\n"


@pytest.mark.parametrize(
    ("more", "expected"), [("", 0), ("time_first = true\n", 1), ("batch_axis = 1\n", 1), ("time_first = false\n", 0)]
)
def test_which_axis_counts_jobs_may_be_said_in_two_ways(tmp_path: Path, more: str, expected: int) -> None:
    (output,) = Manifest.read(written(tmp_path, TEXT + more)).outputs

    assert expected == output.jobs_axis


def test_an_alphabet_is_one_character_a_line_which_may_be_a_blank(tmp_path: Path) -> None:
    files = VersionFiles.of(written(tmp_path, TEXT), 1)
    (tmp_path / "alphabet.txt").write_bytes("\ufeff\u3000\r\na\r\n \r\n'\n\n\n".encode())

    assert ("\u3000", "a", " ", "'") == files.labels_of(files.manifest.outputs[0])
    assert () == files.labels()
    assert ["alphabet.txt"] == [name for name, _ in files.named()]


@pytest.mark.parametrize(("content", "expected"), [(b"", ":1: is empty"), (b"a\n\nb", ":2: is empty")])
def test_an_alphabet_that_cannot_be_meant_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    files = VersionFiles.of(written(tmp_path, TEXT), 1)
    (tmp_path / "alphabet.txt").write_bytes(content)

    with pytest.raises(ModelBroken, match=f"{expected}; expected one character on every line"):
        files.labels_of(files.manifest.outputs[0])


def test_versions_of_before_are_recognised_and_later_keys_count() -> None:
    """Ledgers hold these digits: they must not change from release to release."""
    digits = VersionFiles.of(default_root() / "lenet", 1).answers()

    assert digits == "3a0bff88b8100ca9f65561b3aa01db3bca2e3e6cac02be9c5d7c29e01543764a"


def test_what_an_output_means_and_its_labels_make_another_version(tmp_path: Path) -> None:
    text = "[[outputs]]\nname = 'y'\nmeaning = 'segments'\nlabels = 'labels.txt'\n"
    said = set()
    for more, labels in (("", "a\nb"), ("ignore = 0\n", "a\nb"), ("", "a\nc")):
        written(tmp_path, text + more)
        (tmp_path / "labels.txt").write_text(labels)
        said.add(VersionFiles.of(tmp_path, 1).answers())

    assert 3 == len(said)


def test_missing_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match=r"labels\.txt: cannot be read"):
        VersionFiles.of(written(tmp_path, CLASSES), 1).labels()


def model(root: Path, name: str, *versions: str) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "manifest.toml").touch()
    for version in versions:
        (root / name / version).mkdir()


def test_a_repository_lists_models_and_their_numeric_versions(tmp_path: Path) -> None:
    model(tmp_path, "b", "10", "9", "2", "old", "01", "sample")
    model(tmp_path, "a-1_x", "1")
    (tmp_path / "notes").mkdir()
    (tmp_path / "train.py").touch()
    (tmp_path / "b" / "11").touch()

    repository = ModelRepository.open(tmp_path)

    assert ["a-1_x", "b"] == list(repository.models)
    assert (2, 9, 10) == repository["b"].versions
    assert 10 == repository["b"].newest


def test_only_the_chosen_models_need_to_be_whole(tmp_path: Path) -> None:
    model(tmp_path, "whole", "1")
    model(tmp_path, "unbuilt")

    assert ["whole"] == list(ModelRepository.open(tmp_path, ["whole", "whole"]).models)
    with pytest.raises(ModelBroken, match="unbuilt: holds no version"):
        ModelRepository.open(tmp_path, ["whole", "unbuilt"])


def test_what_cannot_be_served_is_passed_over_and_said(tmp_path: Path) -> None:
    model(tmp_path, "whole", "1", "02", "2.bak", "1000000000", "old")
    model(tmp_path, "unbuilt")
    model(tmp_path, "Le Net", "1")
    model(tmp_path, "odd", "1")
    written(tmp_path / "odd", "[input]\nsize = 3")
    (tmp_path / "whole" / "02" / "model.onnx").touch()
    (tmp_path / "whole" / "2.bak" / "model.onnx").touch()
    (tmp_path / "whole" / "1000000000" / "model.onnx").touch()
    (tmp_path / "pipe" / "1").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe" / "manifest.toml")
    for name in ("notes", "lost+found", ".git", "__pycache__", "empty"):
        (tmp_path / name).mkdir()
    for name in (".DS_Store", "README.md", "resnet.onnx"):
        (tmp_path / name).touch()

    repository = ModelRepository.open(tmp_path)

    assert ["whole"] == list(repository.models)
    assert (1,) == repository["whole"].versions
    expected = {
        "unbuilt": "holds no version",
        "Le Net": "the folder's name is the model's",
        "odd": "manifest.toml:2: input.size: unknown key",
        "pipe": "manifest.toml: is a pipe (FIFO)",
        "notes": "holds no manifest.toml",
        "empty": "holds no manifest.toml",
        "resnet.onnx": "`convq models add` makes one",
        "whole/02": "is no version; expected a number",
        "whole/1000000000": "is no version; expected a number of at most 9 digits",
        "whole/2.bak": "is no version; expected a number",
    }
    assert expected.keys() == repository.passed_over.keys()
    for name, reason in expected.items():
        assert reason in repository.passed_over[name], name


def test_a_model_that_is_named_must_be_one_that_can_be_served(tmp_path: Path) -> None:
    model(tmp_path, "whole", "1")
    model(tmp_path, "odd", "1")
    written(tmp_path / "odd", "[input]\nsize = 3")

    with pytest.raises(ModelBroken, match=r"odd/manifest\.toml:2: input\.size: unknown key"):
        ModelRepository.open(tmp_path, ["odd", "whole"])


def test_of_models_none_of_which_can_be_served_all_are_named(tmp_path: Path) -> None:
    model(tmp_path, "a", "1")
    model(tmp_path, "b")
    written(tmp_path / "a", "[input]\nsize = 3")

    with pytest.raises(ModelBroken, match=r"a/manifest\.toml:2: input\.size: unknown key; .*b: holds no version"):
        ModelRepository.open(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path: Path) -> None:
    model(tmp_path, "whole", "1")
    model(tmp_path, "shut", "1")
    (tmp_path / "shut").chmod(0)

    assert "Permission denied" in ModelRepository.open(tmp_path).passed_over["shut"]


def test_an_unknown_model_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    model(tmp_path, "lenet", "1")

    with pytest.raises(ModelBroken, match=r"has no model 'lennet'; did you mean 'lenet'\?"):
        ModelRepository.open(tmp_path, ["lennet"])
    with pytest.raises(ModelBroken, match="has no model 'q'; there are lenet"):
        ModelRepository.open(tmp_path, ["q"])
    with pytest.raises(ModelBroken, match=r"did you mean 'lenet'\?"):
        ModelRepository.open(tmp_path)["Lenet"]


def test_more_models_than_a_service_can_bear_are_passed_over_by_name(tmp_path: Path) -> None:
    names = [f"m{number:03}" for number in range(MOST_MODELS + 2)]
    for name in names:
        model(tmp_path, name, "1")

    found = ModelRepository.open(tmp_path)

    assert names[:MOST_MODELS] == list(found.models)
    assert set(names[MOST_MODELS:]) == set(found.passed_over)
    assert "at most 100; --only names which" in found.passed_over[names[-1]]
    assert names[-1:] == list(ModelRepository.open(tmp_path, names[-1:]).models)
    with pytest.raises(ModelBroken, match="102 models were chosen; one service serves at most 100"):
        ModelRepository.open(tmp_path, names)


def test_an_empty_or_missing_repository_is_an_error_and_not_an_empty_service(tmp_path: Path) -> None:
    with pytest.raises(ModelBroken, match="holds no models"):
        ModelRepository.open(tmp_path)
    with pytest.raises(ModelBroken, match="cannot be read"):
        ModelRepository.open(tmp_path / "nowhere")
    model(tmp_path, "lenet", "1")
    with pytest.raises(ModelBroken, match="no model was chosen"):
        ModelRepository.open(tmp_path, [])


def test_a_folder_whose_name_is_no_models_name_is_refused(tmp_path: Path) -> None:
    model(tmp_path, "Le Net", "1")

    with pytest.raises(ModelBroken, match="Le Net: the folder's name is the model's"):
        ModelRepository.open(tmp_path)


def test_a_broken_manifest_of_the_only_model_is_the_reason(tmp_path: Path) -> None:
    model(tmp_path, "lenet", "1")
    written(tmp_path / "lenet", "[input]\nsize = 3")

    with pytest.raises(ModelBroken, match=r"lenet/manifest\.toml:2: input\.size: unknown key"):
        ModelRepository.open(tmp_path)


def test_the_default_repository_is_the_checkouts_and_from_a_wheel_its_own() -> None:
    root, package = Path(__file__).resolve().parents[2], Path(convq.__file__).resolve().parent

    assert (root if package.is_relative_to(root / "service") else package) / "models" == default_root()
    assert "lenet" in ModelRepository.open(default_root()).models
