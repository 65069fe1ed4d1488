"""Which folders of a zip are splits, which are classes, and which names of files and folders are passed over."""

from __future__ import annotations

import struct
import sys
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from support.costs import cpu_seconds
from support.images import npy, pixels

from api.uploads import archive as zips
from api.uploads import labels, npz
from api.uploads.budget import Budget
from api.uploads.labels import check_names
from api.uploads.layout import (
    Layout,
    Top,
    _below_shared_folders,
    _refuse_repeated_classes,
    in_order,
    layout,
    roles_of,
)
from api.uploads.system_files import is_system
from shared.errors import UnusableUpload


def packed(tmp_path: Path, names: list[str | zipfile.ZipInfo], content: bytes = b"x") -> Path:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return path


@pytest.fixture
def found(tmp_path):
    """The layout of a zip with entries of these names."""

    def read(*names: str | zipfile.ZipInfo) -> Layout:
        with zips.opened(packed(tmp_path, list(names))) as archive:
            return layout(archive)

    return read


@pytest.fixture
def refusal(found):
    def read(*names: str) -> str:
        with pytest.raises(UnusableUpload) as refused:
            found(*names)
        assert refused.value.code == "unknown_format"
        return refused.value.detail

    return read


class Raw(zipfile.ZipInfo):
    """An entry whose name is written in this encoding, without the flag for UTF-8."""

    encoding = "utf-8"

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # zipfile's name
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


def raw(name: str, encoding: str = "utf-8") -> Raw:
    entry = Raw(name)
    entry.encoding = encoding
    return entry


def renamed(name: str, content: bytes) -> zipfile.ZipInfo:
    """An entry with another name in Info-ZIP's field for names in UTF-8."""
    entry = Raw(name)
    value = struct.pack("<BI", 1, zlib.crc32(name.encode())) + content
    entry.extra = struct.pack("<HH", 0x7075, len(value)) + value
    return entry


def tree(*tops: str, inner: tuple[str, ...] = ("0", "1"), n: int = 2) -> list[str]:
    return [f"{top}/{folder}/{i}.png" for top in tops for folder in inner for i in range(n)]


TOO_LONG = [
    *("a/" * 65 + "1.png", "a\\" * 70 + "1.png", "a\\b/" * 33 + "1.png"),
    *("x" * 8193, "b/" + "y" * 9000 + "/1.png", "b/" + "y" * 256 + "/1.png", "b/" + "e\u0301\u0323" * 100 + ".png"),
]


class Counted(bytes):
    """Bytes that count those that are copied out of them."""

    copied = 0

    def __getitem__(self, index):
        part = super().__getitem__(index)
        self.copied += len(part)
        return Counted(part)


class TestDeepPaths:
    def test_folders_that_enclose_everything_are_found_once(self):
        """Each part of a path is looked at a fixed number of times, however deep it is."""

        def seconds(depth: int) -> float:
            entry = zipfile.ZipInfo("x.png")
            top = ("a",) * depth
            files = [((*top, name, f"{i}.png"), entry) for name in "bc" for i in range(20)]
            return cpu_seconds(lambda: _below_shared_folders(files, [top, (*top, "b")]))

        assert seconds(16_000) < 2  # 0.1 s; path by path, 24 s

    @pytest.mark.parametrize("depth", [0, 1, 2, 5, 60])
    def test_classes_below_any_number_of_folders_are_found(self, found, depth):
        top = "a/" * depth
        assert found(*(f"{top}{name}" for name in tree("cats", "dogs", inner=("x",)))).classes == ["cats", "dogs"]
        read = found(f"{top}README", *(f"{top}{name}" for name in tree("train", "test")), f"{top}empty.txt")
        assert (read.classes, read.split) == (["0", "1"], True)

    def test_notes_on_each_level_are_passed_over(self, found):
        names = [f"{'a/' * i}note{i}.txt" for i in range(5)]
        assert found(*names, *(f"a/a/a/a/{name}" for name in tree("cats", "dogs", inner=("x",)))).classes == [
            "cats",
            "dogs",
        ]
        assert found("a/note.txt", "a/cats/1.png", "a/dogs/1.png", "a/birds/").classes == ["birds", "cats", "dogs"]

    @pytest.mark.parametrize("name", TOO_LONG)
    def test_a_path_that_no_file_system_has_is_refused(self, found, name):
        with pytest.raises(UnusableUpload) as refused:
            found(name, "cats/1.png", "dogs/1.png")
        assert refused.value.code == "unsafe_path"
        assert len(refused.value.detail) < 300

    @pytest.mark.parametrize("name", [*TOO_LONG, "../1.png", "a\n/1.png", "a/" * 31_000 + "1.png"])
    def test_so_is_one_that_only_the_field_for_unicode_names_has(self, found, name):
        with pytest.raises(UnusableUpload) as refused:
            found(renamed("a.png", name.encode()), "cats/1.png", "dogs/1.png")
        assert refused.value.code == "unsafe_path"
        assert len(refused.value.detail) < 300

    def test_the_longest_accepted_paths_are_read_from_each_source_of_a_name(self, found):
        for top, name in (("a/" * 63, "cats/1.png"), ("", f"{'ä' * 255}/{'ö' * 251}.png")):
            path = top + name
            for entry in (path, raw(path), renamed("a.png", path.encode())):
                assert found(entry, f"{top}dogs/1.png").classes == sorted([name.split("/")[0], "dogs"])

    def test_the_fields_of_an_entry_are_read_without_a_copy_of_those_that_follow(self):
        def read(fields: int) -> int:
            """Bytes that are copied."""
            extra = Counted((struct.pack("<HH", 0x1234, 4) + b"abcd") * fields)
            assert zips._unicode_path(extra, b"a.png") is None
            return extra.copied

        assert read(400) == 4 * read(100) == 1600

    @pytest.mark.parametrize("name", ["e" + "\u0301\u0323" * 300, "한" * 600, "x" * 513])
    def test_a_name_that_is_too_long_in_any_form_is_refused_without_composing_it(self, monkeypatch, name):
        composed: list[int] = []
        monkeypatch.setattr(unicodedata, "normalize", lambda form, text: composed.append(len(text)) or text)
        numbers = np.arange(2)
        with pytest.raises(UnusableUpload) as refused:
            labels.check_classes(numbers, None, ["a", name])
        assert refused.value.code == "bad_labels"
        assert composed == [1]

    def test_the_longest_name_may_be_sent_in_parts(self):
        name = "ΐ" * 128  # of three characters each, and no letter of Unicode is made of more than four
        sent = unicodedata.normalize("NFD", name)
        assert len(sent) == 384
        assert labels.check_classes(np.arange(2), None, ["a", sent]) == ("a", name)
        every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
        assert max(len(unicodedata.normalize("NFD", sign)) for sign in every) == labels.MOST_MARKS

    def test_too_many_entries_are_refused_before_they_are_read(self, tmp_path, monkeypatch):
        path = packed(tmp_path, [f"a/{i}.png" for i in range(40)])
        with zips.opened(path) as archive:
            assert len(archive.infolist()) == 40
        read: list[object] = []
        monkeypatch.setattr(zipfile, "ZipFile", lambda file: read.append(file))
        for limit, least in (("MAX_ENTRIES", 39), ("MAX_DIRECTORY_BYTES", 1000)):
            monkeypatch.setattr(zips, limit, least)
            with pytest.raises(UnusableUpload) as refused, zips.opened(path):
                pass
            assert refused.value.code == "unpacks_too_large"
            monkeypatch.setattr(zips, limit, 1 << 30)
        assert read == []

    def test_entries_are_counted_across_chunks_and_with_a_comment(self, tmp_path, monkeypatch):
        path = packed(tmp_path, [f"a/{i}.png" for i in range(40)])
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = b"a comment" * 100
        monkeypatch.setattr(zips, "CHUNK", 3)
        monkeypatch.setattr(zips, "MAX_ENTRIES", 39)
        with pytest.raises(UnusableUpload), zips.opened(path):
            pass
        monkeypatch.setattr(zips, "MAX_ENTRIES", 40)
        with zips.opened(path) as archive:
            assert len(archive.infolist()) == 40

    def test_many_folders_with_sub_folders_are_compared_in_linear_time(self):
        tops = {str(i): Top(frozenset({f"x{i}", f"y{i}"}), has_images=False) for i in range(3000)}
        assert cpu_seconds(lambda: _refuse_repeated_classes(tops)) < 1  # 0.01 s; with a set of all for each, 1 s

    @pytest.mark.parametrize("digits", ["9" * 5000, "1" * 4301, "٣" * 4400, "9" * 129, "8" * 4300])
    def test_a_class_named_by_thousands_of_digits_is_refused_like_any_long_name(self, tmp_path, digits):
        with pytest.raises(UnusableUpload) as refused:
            check_names(in_order([digits, "1", "2"]))
        assert refused.value.code == "bad_labels"


class TestSplits:
    @pytest.mark.parametrize(
        ("train", "test"),
        [
            *(("training", "testing"), ("Train", "Test"), ("TRAIN", "TEST"), ("Training", "Test")),
            *(("training_set", "test_set"), ("trainset", "testset"), ("train_images", "test_images")),
            *(("seg_train", "seg_test"), ("trn", "tst"), ("train", "testing"), ("training", "test")),
            *(("mnist-train", "mnist-test"), ("TrainImages", "TestImages"), ("train data", "test data")),
            *(
                ("Training Set 2019", "Test Set 2019"),
                ("train2017", "test2017"),
                ("asl_alphabet_train", "asl_alphabet_test"),
            ),
        ],
    )
    @pytest.mark.parametrize("above", ["", "data/"])
    def test_two_folders_named_for_training_and_testing_are_the_splits(self, found, train, test, above):
        held_out = [f"{above}{test}/{c}/9.png" for c in "01"]
        layout = found(*(above + name for name in tree(train)), *held_out)
        assert (layout.classes, layout.split) == (["0", "1"], True)
        assert [picture.entry.filename for picture in layout.pictures if picture.held_out] == held_out
        assert [picture.label for picture in layout.pictures] == [0, 0, 1, 1, 0, 1]

    @pytest.mark.parametrize(
        ("tops", "action"),
        [
            (("train", "eval"), "into 'test'"),
            (("train", "holdout"), "leave out 'holdout'"),
            (("Train", "Val"), "leave out 'Val'"),
            (("train", "hold_out"), "leave out 'hold_out'"),
            (("train", "test", "valid"), "put the images of 'valid' into 'train'"),
            (("Training", "Testing", "annotations"), "leave out 'annotations'"),
            (("train", "test", "unlabelled", "docs"), "leave out 'docs', 'unlabelled'"),
            (("train-1", "train-2", "test"), "merge 'train-1', 'train-2'"),
            (("test", "val"), "name them 'train' and 'test'"),
            (("entrenamiento", "prueba"), "name them 'train' and 'test'"),
            (("fold1", "fold2", "fold3"), "name them 'train' and 'test'"),
            (("learn", "check"), "put their images directly into them"),
            (("train", "seg_pred"), "name them 'train' and 'test'"),
        ],
    )
    def test_other_splits_are_refused_with_what_was_seen_and_what_to_do(self, refusal, tops, action):
        detail = refusal(*tree(*tops))
        assert action in detail
        assert all(top in detail for top in tops)

    def test_a_class_that_one_split_lacks_does_not_hide_the_splits(self, refusal):
        assert "same sub-folders" in refusal(*tree("alpha", inner=("0", "1", "2")), *tree("beta"))

    @pytest.mark.parametrize("inner", [["0"], ["1"], ["0", "1", "2"]])
    def test_nor_does_one_that_the_other_lacks_of_few(self, refusal, inner):
        assert "same sub-folders" in refusal(*tree("alpha"), *(f"beta/{c}/1.png" for c in inner))

    @pytest.mark.parametrize(
        ("split", "others"),
        [
            ("train", ["unlabeled/1.png"]),
            ("Training", ["prueba/1.png"]),
            ("Testing", ["pred/x/1.png", "notes/1.txt"]),
            ("val", ["extra/x/1.png"]),
            ("seg_train", ["seg_pred/1.png"]),
        ],
    )
    def test_a_split_with_classes_is_none_of_the_classes_whatever_is_beside_it(self, refusal, split, others):
        detail = refusal(*tree(split), *others)
        assert f"the folder '{split}' seems to be a split" in detail
        assert all(f"'{name.split('/')[0]}'" in detail for name in others)

    @pytest.mark.parametrize(
        "tops",
        [
            ("trainA", "trainB", "testA", "testB"),
            ("train_cats", "train_dogs", "test_cats", "test_dogs"),
            ("cats_train", "cats_test", "dogs_train", "dogs_test"),
            ("train-cats", "valid-cats", "train-dogs"),
        ],
    )
    def test_names_of_a_split_and_a_class_are_refused(self, refusal, tops):
        assert "seem to be parts of splits" in refusal(*(f"{top}/1.png" for top in tops))

    @pytest.mark.parametrize("tops", [("trainval", "test"), ("traindir", "testdir"), ("train_dir", "test_dir")])
    def test_more_names_of_splits(self, found, tops):
        assert found(*tree(*tops)).split

    @pytest.mark.parametrize("repeated", ["cell_images", "all", "backup"])
    def test_a_folder_that_repeats_the_classes_beside_it_is_refused(self, refusal, repeated):
        names = [f"x/{c}/1.png" for c in ("a", "b", f"{repeated}/a", f"{repeated}/b")]
        assert f"leave out '{repeated}'" in refusal(*names)

    def test_splits_inside_the_classes_are_told_where_they_belong(self, refusal):
        assert "put the splits at the top" in refusal(*tree("cats", "dogs", inner=("train", "test")))

    def test_splits_without_class_folders_are_refused(self, refusal):
        assert "train/0.png is not in a class folder" in refusal("train/0.png", "test/0.png")

    def test_an_image_beside_the_splits_is_refused(self, refusal):
        assert "cover.png is not in a class folder" in refusal(*tree("train", "test"), "cover.png")

    def test_a_folder_that_repeats_its_split_and_notes_in_a_split_are_passed_over(self, found):
        names = [f"seg_{s}/seg_{s}/{c}/1.png" for s in ("train", "test") for c in ("sea", "street")]
        folders = ["seg_train/", "seg_train/seg_train/", "seg_train/seg_train/sea/"]
        layout = found(*folders, *names, "seg_test/labels.csv")
        assert (layout.classes, len(layout.pictures), layout.split) == (["sea", "street"], 4, True)

    @pytest.mark.parametrize(
        "names",
        [
            ["train/1.png", "bus/1.png", "test/1.png"],  # vehicles, and something to be tested
            ["valid/1.png", "invalid/1.png"],
            ["positive_test/1.png", "negative_test/1.png"],
            ["positive_test/a/1.png", "negative_test/b/1.png"],
            ["test_tube/1.png", "train/1.png"],
            ["freight_train/1.png", "passenger_train/1.png", "test_track/1.png"],
            ["cats/1.png", "dogs/1.png", "both/cats/1.png"],
            ["test 1/1.png", "test 2/1.png"],
            ["cats/images/1.png", "dogs/images/1.png"],  # one sub-folder each: as splits there would be one class
            ["cats/persian/1.png", "cats/siamese/1.png", "dogs/pug/1.png", "dogs/collie/1.png"],
            ["images/1.png", "data/1.png"],
        ],
    )
    def test_folders_that_are_classes_stay_classes(self, found, names):
        layout = found(*names)
        assert layout.classes == sorted({name.split("/")[0] for name in names})
        assert not layout.split

    def test_a_folder_without_files_beside_the_only_one_with_files_is_a_class(self, found):
        assert found("cats/a/1.png", "dogs/").classes == ["cats", "dogs"]

    def test_the_order_of_classes_does_not_hang_on_the_process(self, found):
        names = [f"{c}/1.png" for c in ("1", "01", "10", "2", "001")]
        assert found(*names).classes == ["001", "01", "1", "2", "10"]
        assert found("9" * 255 + "/1.png", "1/1.png").classes == ["1", "9" * 255]

    def test_words_that_all_names_share_have_no_role(self):
        assert roles_of(["test_a", "test_b"]) == {"test_a": None, "test_b": None}
        assert roles_of(["a_train", "a_test"]) == {"a_train": "train", "a_test": "test"}


class TestSystemFiles:
    @pytest.mark.parametrize(
        "name",
        [
            *("@eaDir/0.png/SYNO.jpg", "a/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg", "a/@EADIR/1.jpg", "#recycle/1.png"),
            *("a/thumbs.db", "a/THUMBS.DB", "a/Thumbs.db:encryptable", "a/ehthumbs.db", "a/Desktop.ini"),
            *(
                "a/0.png:Zone.Identifier",
                "a/0.png:Zone.Identifier:$DATA",
                "a/0.pngZone.Identifier",
                "cats:Zone.Identifier",
            ),
            *(
                "a/0.png\uf03aZone.Identifier",
                "a/0.png:com.apple.quarantine",
                "a/0.png@SynoEAStream",
                "a/SYNO@.fileindexdb",
            ),
            *("a/Icon\r", "Icon\r", "__macosx/a/._0.png", "Network Trash Folder/1.png", ".DS_Store", "a/._0.png"),
            *("lost+found/", "$RECYCLE.BIN/1.png", "System Volume Information/x", "@Recycle/1.png", ".@__thumb/1.png"),
            *("RECYCLER/1.png", "Recycled/1.png", "FOUND.000/1.png", "~snapshot/a/1.png", "a/_vti_cnf/1.png"),
            *("a/AlbumArtSmall.jpg", "a/AlbumArt_{B5020207-474E-4720-0000-000000000000}_Large.jpg", "a/pspbrwse.jbf"),
            *("@Recently-Snapshot/a/1.png", "#snapshot/a/1.png", ".Trash-1000/files/1.png", "a/~$notes.docx"),
        ],
    )
    def test_what_systems_leave_is_passed_over_whatever_its_case(self, found, name):
        layout = found("a/0.png", "b/0.png", name)
        assert (layout.classes, len(layout.pictures)) == (["a", "b"], 2)

    @pytest.mark.parametrize(
        "name",
        [
            "ratio 4:3",
            "found",
            "found.1",
            "albumart",
            "vti",
            "icon",
            "thumbs",
            "recycle",
            "@home",
            "#1",
            "desktop",
            "synonym",
        ],
    )
    def test_similar_names_are_the_users_own(self, name):
        assert not is_system(name)

    @pytest.mark.parametrize("name", ["a/x\r", "a/b\n/1.png", "a\x07/1.png"])
    def test_other_control_characters_are_refused_by_what_they_are(self, found, name):
        with pytest.raises(UnusableUpload, match="control character in its name; rename it"):
            found("a/0.png", name)

    def test_a_path_outside_of_the_archive_is_refused_though_a_system_left_it(self, found):
        with pytest.raises(UnusableUpload, match="outside of the archive"):
            found("a/0.png", "../Icon\r")

    def test_arrays_packed_by_a_desktop_are_an_npz(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            for name in ("x.npy", "__MACOSX/._x.npy", "y.npy", ".DS_Store", "__MACOSX/"):
                file.writestr(name, npy(pixels(3)))
        with zips.opened(tmp_path / "a.zip") as archive:
            assert npz.is_npz(archive)
            (tmp_path / "scratch").mkdir()
            arrays = npz.read(archive, tmp_path / "scratch", Budget(1 << 20))
        assert sorted(arrays) == ["x", "y"]


class TestNames:
    @pytest.mark.parametrize("name", ["Kätzchen", "日本", "кошки", "naïve café", "🐈", "ελιά"])
    @pytest.mark.parametrize("flagged", [True, False])
    def test_utf8_is_read_as_such_with_and_without_the_flag(self, tmp_path, name, flagged):
        entries = [f"{c}/0.png" if flagged else raw(f"{c}/0.png") for c in (name, "dogs")]
        with zips.opened(packed(tmp_path, entries, b"content")) as archive:
            found = layout(archive)
            assert set(found.classes) == {name, "dogs"}
            with zips.entry_stream(archive, found.pictures[0].entry) as stream:
                assert stream.read() == b"content"

    def test_other_bytes_are_cp437(self, found):
        assert found(raw("Kätzchen/0.png", "cp437"), raw("dogs/0.png")).classes == ["Kätzchen", "dogs"]

    @pytest.mark.parametrize(("crc", "name"), [(0, "кошки"), (1, "ъ")])
    def test_a_unicode_name_in_the_extra_field_counts_if_it_is_of_this_name(self, found, crc, name):
        entry = raw("ъ/0.png", "cp866")
        check = zlib.crc32("ъ/0.png".encode("cp866")) + crc
        value = struct.pack("<BI", 1, check) + "кошки/0.png".encode()
        entry.extra = struct.pack("<HH", 0x7075, len(value)) + value
        assert (name in found(entry, "dogs/0.png").classes) == (name == "кошки")

    def test_composed_and_decomposed_names_are_one_class(self, found):
        decomposed = unicodedata.normalize("NFD", "Kätzchen")
        assert decomposed != "Kätzchen"
        layout = found(*tree("train", inner=("Kätzchen", "dogs")), *tree("test", inner=(decomposed, "dogs")))
        assert (layout.classes, len(layout.pictures)) == (["Kätzchen", "dogs"], 8)

    def test_no_image_is_lost_where_two_forms_of_a_name_have_the_same_files(self, found):
        decomposed = unicodedata.normalize("NFD", "é")
        layout = found("é/0.png", f"{decomposed}/0.png", raw(f"{decomposed}/1.png"), "b/0.png")
        assert (layout.classes, [picture.label for picture in layout.pictures]) == (["b", "é"], [1, 1, 1, 0])
