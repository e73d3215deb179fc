"""What an evaluation counts: which pictures, which classes, and sums that are compared with plain ones."""

from __future__ import annotations

import math
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from convq.errors import BadDataset
from convq.evaluation.classes import read_names, resolve
from convq.evaluation.dataset import Dataset, read_dataset
from convq.evaluation.tally import MOST_CHANGED, MOST_FAILED, Failed, Said, Tally, compare, mcnemar, share

PETS = ("cat", "dog", "golden retriever", "crane", "crane", "n01440764 tench, Tinca tinca", "Ångström")


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def pairs(dataset: Dataset) -> list[tuple[str, str]]:
    return list(zip(dataset.names, dataset.labels, strict=True))


# -- folders -------------------------------------------------------------------------------------------------------------


def test_folders_are_classes_and_pictures_may_lie_at_any_depth_below(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "cat/b.png",
        "cat/a/deep/c.JPG",
        "cat/a.png",
        "dog/x.webp",
        ".git/y.png",
        "dog/.DS_Store",
        "dog/.z.png",
    )

    found = read_dataset(tmp_path)

    assert [("cat/a.png", "cat"), ("cat/b.png", "cat"), ("cat/a/deep/c.JPG", "cat"), ("dog/x.webp", "dog")] == pairs(
        found
    )
    assert [] == found.notes
    assert all(found.path(number).exists() for number in range(len(found)))


def test_what_does_not_count_is_said(tmp_path: Path) -> None:
    tree(tmp_path, "cat/a.png", "stray.png", "cat/notes.txt", "cat/x.mp4", "cat/y.mp4", "README", "b.csv")
    for number in range(7):
        (tmp_path / f"empty{number}").mkdir()

    assert [
        "pictures beside the folders have no class and do not count: 1",
        "no pictures in empty0, empty1, empty2, empty3, empty4 and 2 more",
        "other files do not count: .mp4 (2), README (1), .csv (1), .txt (1)",
    ] == read_dataset(tmp_path).notes


def test_links_are_followed_and_one_that_leads_back_ends_nothing(tmp_path: Path) -> None:
    tree(tmp_path, "store/1.png", "data/dog/2.png")
    data = tmp_path / "data"
    (data / "cat").symlink_to(tmp_path / "store", target_is_directory=True)
    (data / "dog" / "linked.png").symlink_to(tmp_path / "store" / "1.png")
    (data / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (data / "dog" / "again").symlink_to(data / "dog", target_is_directory=True)
    (data / "dog" / "up").symlink_to(data, target_is_directory=True)

    found = pairs(read_dataset(data))

    assert ("cat/1.png", "cat") in found
    assert {"dog/2.png", "dog/linked.png", "dog/gone.png"} <= {name for name, label in found if label == "dog"}
    assert len(found) < 20


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "there are no pictures"),
        (["cat/notes.txt"], "there are no pictures"),
        (["a.png", "b.png"], "2 pictures lie in it, in no folder that says their class"),
    ],
)
def test_a_folder_without_classes_is_refused_with_what_was_expected(
    tmp_path: Path, files: list[str], reason: str
) -> None:
    with pytest.raises(BadDataset, match="or a CSV file") as refused:
        read_dataset(tree(tmp_path, *files))
    assert reason in str(refused.value)


def test_what_is_not_there_is_said_as_such(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="nowhere: No such file or directory"):
        read_dataset(tmp_path / "nowhere")


# -- CSV -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        b"a.png,cat\nsub/b.png,dog\n",
        b"path,label\na.png,cat\nsub/b.png,dog",
        b"\xef\xbb\xbfFilename,Class\r\na.png,cat\r\nsub/b.png,dog\r\n",
        b'a.png, "cat"\n\n  \n"sub/b.png", dog\n',
        b"a.png;cat\nsub/b.png;dog\n",
        b"label\tid\timage\ncat\t1\ta.png\ndog\t2\tsub/b.png\n",
    ],
)
def test_a_csv_names_path_and_class_in_many_ways(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(text)

    found = read_dataset(file)

    assert [("a.png", "cat"), ("sub/b.png", "dog")] == pairs(found)
    assert tmp_path / "sub" / "b.png" == found.path(1)


def test_a_quoted_path_may_hold_commas_quotes_and_every_letter(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text('"a, ""b"".png",Katze\nbäume/æ.png,"cat, tabby"\n/abs.png,x\n', encoding="utf-8")

    found = read_dataset(file)

    assert [('a, "b".png', "Katze"), ("bäume/æ.png", "cat, tabby"), ("/abs.png", "x")] == pairs(found)
    assert Path("/abs.png") == found.path(2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "names no pictures"),
        (b"path,label\n", "names no pictures"),
        (b"a.png\n", "line 1: has 1 cells; expected a path and a class"),
        (b"1,a.png,cat\n", "line 1: has 3 cells; expected a path and a class, or a line that names the columns"),
        (b"a.png,cat\nb.png\n", "line 2: has 1 cells; the first line has 2"),
        (b"a.png,cat\nb.png,dog,x\n", "line 2: has 3 cells; the first line has 2"),
        (b"a.png,cat\n,dog\n", "line 2: the path is missing"),
        (b"a.png,\n", "line 1: the class is missing"),
        (b'"a.png,cat\nb.png,dog\n', "line 2: unexpected end of data"),
        (b"a.png,\xff\n", "is no UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n", "is no UTF-8 text"),
    ],
)
def test_a_csv_that_is_none_is_refused_with_its_line(tmp_path: Path, text: bytes, reason: str) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(text)

    with pytest.raises(BadDataset) as refused:
        read_dataset(file)
    assert reason in str(refused.value)
    assert str(file) in str(refused.value)


# -- classes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("cat", 0),
        ("Golden_Retriever", 2),
        ("golden-retriever", 2),
        ("1", 1),
        ("006", 6),
        ("n01440764", 5),
        (unicodedata.normalize("NFD", "Ångström"), 6),
    ],
)
def test_a_name_means_one_class(name: str, index: int) -> None:
    found, remarks = resolve([name, name], PETS, "pets")

    assert {name: index} == found
    assert (unicodedata.normalize("NFC", name) not in PETS) == bool(remarks)


def test_a_number_is_an_index_only_where_no_class_is_called_by_one() -> None:
    assert {"1": 0} == resolve(["1"], ("1", "2", "3"), "m")[0]
    with pytest.raises(BadDataset, match="no class of m: '0'; it has 3: 1, 2, 3"):
        resolve(["0"], ("1", "2", "3"), "m")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["cta", "dog"], "no class of pets: 'cta' (did you mean 'cat'?); it has 7: cat, dog"),
        (["7"], "no class of pets: '7'"),
        (["train", "val"], "a class is a folder right below the one that was named, or stands in the CSV file"),
        (["-1"], "no class of pets: '-1'"),
        (["crane"], "'crane' names 2 classes of pets, 3 and 4; --classes FILE says"),
        (["n09999999"], "--classes FILE says what your data calls them"),
        ([f"x{i}" for i in range(8)], "'x4' and 3 more"),
    ],
)
def test_a_name_that_means_none_or_two_is_refused(names: list[str], reason: str) -> None:
    with pytest.raises(BadDataset) as refused:
        resolve(names, PETS, "pets")
    assert reason in str(refused.value)


def test_a_file_may_say_what_the_data_calls_the_classes(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("n02121808\nn02084071\n\n", encoding="utf-8")

    assert {"n02084071": 1} == resolve(["n02084071"], read_names(file, ("cat", "dog")), "m")[0]
    with pytest.raises(BadDataset, match="has 2 names; the model has 3 classes"):
        read_names(file, ("a", "b", "c"))


# -- sums ----------------------------------------------------------------------------------------------------------------


def tally_of(
    truth: list[int], said: list[list[int]], scores: list[float], labels: tuple[str, ...], worst: int = 3
) -> Tally:
    made = Tally(truth, labels, worst)
    for number, (classes, score) in enumerate(zip(said, scores, strict=True)):
        made.add(Said(number, classes, score))
    return made


def test_the_sums_are_those_that_plain_loops_give() -> None:
    rng = np.random.default_rng(4)
    labels, count = tuple("abcdefg"), 400
    truth = rng.integers(0, 7, count).tolist()
    said = [rng.permutation(7)[:5].tolist() for _ in range(count)]
    scores = rng.random(count).tolist()
    names = [f"{i}.png" for i in range(count)]

    found = tally_of(truth, said, scores, labels).document(names)

    first = [classes[0] for classes in said]
    assert sum(a == b for a, b in zip(truth, first, strict=True)) == found["top1"]["right"]
    assert sum(a in b for a, b in zip(truth, said, strict=True)) == found["top5"]["right"]
    matrix = np.zeros((7, 7), dtype=int)
    np.add.at(matrix, (truth, first), 1)
    assert {(i, j): n for (i, j), n in np.ndenumerate(matrix) if n} == {
        (cell["index"], cell["said_index"]): cell["count"] for cell in found["confusion"]
    }
    for one in found["classes"]:
        i = one["index"]
        assert (matrix[i].sum(), matrix[:, i].sum()) == (one["support"], one["predicted"])
        assert math.isclose(one["recall"], matrix[i, i] / matrix[i].sum(), abs_tol=1e-6)
        assert math.isclose(one["precision"], matrix[i, i] / matrix[:, i].sum(), abs_tol=1e-6)
    wrong = sorted((i for i in range(count) if first[i] != truth[i]), key=lambda i: -scores[i])[:3]
    assert [names[i] for i in wrong] == [one["picture"] for one in found["worst"]]


def test_a_class_that_nobody_names_has_no_precision_and_one_that_is_not_shown_no_recall() -> None:
    found = tally_of([0], [[1]], [0.5], ("a", "b", "c")).document(["x"])

    assert [("a", None, 0.0), ("b", 0.0, None)] == [
        (one["label"], one["precision"], one["recall"]) for one in found["classes"]
    ]
    assert found["top5"] is None


def test_pictures_without_an_answer_are_counted_and_do_not_count() -> None:
    made = Tally([0] * 300, ("a", "b"), 10)
    made.add(Said(0, [0, 1], 0.9))
    for number in range(1, 300):
        made.add(Failed(number, "bad_image", "no picture"))

    found = made.document([str(i) for i in range(300)])

    assert (1, 1.0, 299, {"bad_image": 299}) == (
        found["answered"],
        found["top1"]["share"],
        found["failed"]["count"],
        found["failed"]["codes"],
    )
    assert MOST_FAILED == len(found["failed"]["pictures"])


def test_nothing_answered_is_no_accuracy() -> None:
    assert Tally([0], ("a",), 1).document(["x"])["top1"]["share"] is None


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (992, 1000), (1, 3)])
def test_the_interval_is_wilsons(right: int, count: int) -> None:
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")

    found = share(right, count)

    assert (expected.low, expected.high) == pytest.approx((found["low"], found["high"]), abs=1e-5)


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 90), (2500, 2400), (0, 5000)])
def test_mcnemars_test_is_the_exact_one(one: int, other: int) -> None:
    expected = stats.binomtest(one, one + other).pvalue if one + other else 1.0

    assert expected == pytest.approx(mcnemar(one, other), rel=1e-6)


def test_two_versions_are_compared_on_what_both_have_answered() -> None:
    labels: tuple[str, ...] = ("a", "b", "c")
    other_labels = ("c", "b", "a")  # a version may have its classes in another order
    truth = [0, 0, 0, 1, 1, 2]
    this, other = Tally(truth, labels), Tally([2 - one for one in truth], other_labels)
    for number, said in enumerate([0, 1, 0, 2, 0]):
        this.add(Said(number, [said], 0.5))
    for number, said in enumerate([2, 2, 1, 2, 2, 1]):
        other.add(Said(number, [said], 0.5))

    found = compare(this, other, list("uvwxyz"))

    counts = {
        name: found[name] for name in ("pictures", "both_right", "only_this", "only_other", "both_wrong", "changed")
    }
    assert {"pictures": 5, "both_right": 1, "only_this": 1, "only_other": 1, "both_wrong": 2, "changed": 3} == counts
    assert [("v", "a", "b", "a"), ("w", "a", "a", "b"), ("x", "b", "c", "a")] == [
        tuple(one[key] for key in ("picture", "label", "this", "other")) for one in found["changed_pictures"]
    ]


def test_of_very_many_changes_the_first_are_named_and_all_counted() -> None:
    truth = [0] * (MOST_CHANGED + 5)
    this, other = Tally(truth, ("a", "b")), Tally(truth, ("a", "b"))
    for number in range(len(truth)):
        this.add(Said(number, [0], 1.0))
        other.add(Said(number, [1], 1.0))

    found = compare(this, other, [""] * len(truth))

    assert (len(truth), MOST_CHANGED) == (found["changed"], len(found["changed_pictures"]))


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "cat/a.png", "dog/b.png")
    real = os.scandir

    def refusing(path: Any) -> Any:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)  # root may read everything

    with pytest.raises(BadDataset, match="dog: cannot be read: Permission denied"):
        read_dataset(tmp_path)
