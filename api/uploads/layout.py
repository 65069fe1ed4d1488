"""The classes and splits of a zip, from its folders: cats/1.png …, or train/cats/1.png … and test/cats/1.png …"""

from __future__ import annotations

import re
import unicodedata
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from api.uploads.archive import Parts, user_entries
from api.uploads.labels import LONGEST_NAME
from api.uploads.pixels import MAX_EXAMPLES
from shared.errors import UnusableUpload

SUFFIXES = (".png", ".jpg", ".jpeg")
TRAIN, TEST, VALIDATION = "train", "test", "validation"
ROLES = {  # a folder's name without the words below
    **dict.fromkeys(("train", "training", "trn", "trainval"), TRAIN),
    **dict.fromkeys(("test", "tests", "testing", "tst"), TEST),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), VALIDATION),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "holdout", "heldout"), VALIDATION),
}
GENERAL_WORDS = frozenset(
    {
        *("set", "sets", "data", "dataset", "datasets", "split", "folder", "dir", "files", "examples", "samples"),
        *("image", "images", "img", "imgs", "picture", "pictures", "photo", "photos"),
    }
)
# between words: other signs than letters and digits; a capital after a small letter; a letter beside a digit
WORD_LIMITS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])|(?<=[^\W\d])(?=\d)|(?<=\d)(?=[^\W\d])")
NAMED_FOLDERS = 6  # in an error
File = tuple[Parts, zipfile.ZipInfo]


@dataclass(frozen=True)
class Picture:
    entry: zipfile.ZipInfo
    label: int
    held_out: bool = False


@dataclass(frozen=True)
class Layout:
    """The images and classes of a zip; `split`: whether the zip has a test split."""

    classes: list[str]
    pictures: list[Picture]
    split: bool


@dataclass(frozen=True)
class Top:
    """A folder at the top of a zip: its sub-folders that have files, and whether it has images beside them."""

    inner: frozenset[str]
    has_images: bool


def layout(archive: zipfile.ZipFile) -> Layout:
    """Find classes and splits from the folder names. Raises UnusableUpload."""
    files, folders = _paths(archive)
    files, folders = _below_shared_folders(files, folders)
    splits = find_splits(_tops(files, folders))
    if splits is not None:
        files, folders = _below_splits(files, folders, splits)
    depth = 1 if splits is None else 2  # minimum number of folders above an image
    for parts, _ in files:
        if len(parts) <= depth:
            detail = f"{'/'.join(parts)} is not in a class folder; put each image into a folder named after its class"
            raise UnusableUpload("unknown_format", detail)
    names = {parts[depth - 1] for parts, _ in files} | {parts[depth - 1] for parts in folders if len(parts) >= depth}
    ordered = in_order(names)
    numbers = {name: i for i, name in enumerate(ordered)}
    if len(files) > MAX_EXAMPLES:
        raise UnusableUpload("too_many_examples", f"{len(files)} images; at most {MAX_EXAMPLES} are accepted")
    pictures = [
        Picture(entry, numbers[parts[depth - 1]], held_out=splits is not None and parts[0] == splits[1])
        for parts, entry in files
    ]
    return Layout(ordered, pictures, splits is not None)


def in_order(names: Iterable[str]) -> list[str]:
    """Class names by number if all are numbers, else by name."""
    names = sorted(names)
    if all(name.isdecimal() and len(name) <= LONGEST_NAME for name in names):
        return sorted(names, key=int)  # stable: `01` before `1`
    return names


# --- paths ------------------------------------------------------------------------------------------------------------


def _paths(archive: zipfile.ZipFile) -> tuple[list[File], list[Parts]]:
    """Files with their paths, and paths of folders; without those that systems add.

    Names are in Unicode's composed form: `ä` is one character, however the packing system writes it.
    """
    files: dict[str, File] = {}  # by the name in the archive: of two entries with one name, the last one counts
    folders: list[Parts] = []
    for parts, entry in user_entries(archive):
        composed = tuple(unicodedata.normalize("NFC", part) for part in parts)
        if entry.is_dir():
            folders.append(composed)
        else:
            files["/".join(parts)] = (composed, entry)
    return _without_notes(list(files.values())), folders


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _without_notes(files: list[File]) -> list[File]:
    """Leave out files next to the class folders that are not images, such as a README."""
    return [(parts, entry) for parts, entry in files if len(parts) > 1 or is_image(parts[0])]


def _below_shared_folders(files: list[File], folders: list[Parts]) -> tuple[list[File], list[Parts]]:
    """Files and folders without the folders that enclose everything and have folders themselves, and without the notes
    beside these. Paths are shortened once, at the end: folder by folder, a deep one would be copied for each."""
    depth = 0
    while files and max(len(parts) for parts, _ in files) - depth > 2:
        tops = {parts[depth] for parts, _ in files} | {parts[depth] for parts in folders}
        if len(tops) != 1:
            break
        depth += 1
        files = [(parts, entry) for parts, entry in files if len(parts) > depth + 1 or is_image(parts[depth])]
        folders = [parts for parts in folders if len(parts) > depth]
    return [(parts[depth:], entry) for parts, entry in files], [parts[depth:] for parts in folders]


def _below_splits(files: list[File], folders: list[Parts], splits: tuple[str, str]) -> tuple[list[File], list[Parts]]:
    """Files and folders as (split, class, …), without notes next to the class folders, and without a folder that only
    repeats the split's name, as in seg_train/seg_train/cats/1.png."""
    files = [(parts, entry) for parts, entry in files if len(parts) != 2 or is_image(parts[1])]
    for top in splits:
        own = [parts[:-1] for parts, _ in files if parts[0] == top]
        own += [parts for parts in folders if parts[0] == top and len(parts) > 2]
        if own and all(len(parts) > 2 and parts[1].casefold() == top.casefold() for parts in own):
            files = [((top, *parts[2:]) if parts[0] == top else parts, entry) for parts, entry in files]
            folders = [(top, *parts[2:]) if parts[0] == top else parts for parts in folders]
    return files, folders


# --- splits -----------------------------------------------------------------------------------------------------------


def _tops(files: list[File], folders: list[Parts]) -> dict[str, Top]:
    inner: dict[str, set[str]] = {parts[0]: set() for parts in folders}
    with_images: set[str] = set()
    for parts, _ in files:
        if len(parts) == 1:
            continue  # an image outside of all folders, which is refused later
        below = inner.setdefault(parts[0], set())
        if len(parts) > 2:
            below.add(parts[1])
        elif is_image(parts[1]):
            with_images.add(parts[0])
    return {name: Top(frozenset(below), name in with_images) for name, below in inner.items()}


def find_splits(tops: dict[str, Top]) -> tuple[str, str] | None:
    """The folders of the training and of the test split; None if the folders at the top are the classes.

    Raises UnusableUpload when the folders are splits by their names but not one for training and one for testing, and
    when they seem to be splits by their sub-folders: to take them for classes would merge the classes inside.
    """
    roles = roles_of(list(tops))
    by_role = {role: sorted(name for name in tops if roles[name] == role) for role in (TRAIN, TEST, VALIDATION)}
    others = sorted(name for name in tops if roles[name] is None)
    several = by_role[TRAIN] and (by_role[TEST] or by_role[VALIDATION])
    # a class may have the name of a split, such as pictures of trains next to those of buses
    if several and (not others or any(top.inner for name, top in tops.items() if roles[name])):
        return _named_splits(by_role, others)
    _refuse_same_folders(tops)
    _refuse_repeated_classes(tops)
    _refuse_split_beside_others(tops, roles)
    _refuse_splits_of_classes(list(tops))
    return None


def roles_of(names: Sequence[str]) -> dict[str, str | None]:
    """The role of each folder by its name, None for names that have no role: `Training_Set`, `seg_train`, `trainset`.

    Words that all names share have no meaning: positive_test and negative_test are two classes.
    """
    return {name: ROLES.get("".join(words)) for name, words in _words_of(names).items()}


def _words_of(names: Sequence[str]) -> dict[str, list[str]]:
    """The words of each name in lower case, without numbers, general words and words that all names share."""
    words = {name: [_stem(word) for word in WORD_LIMITS.split(name)] for name in names}
    shared = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    return {
        name: [word for word in own if word and word not in shared and not word.isdecimal()]
        for name, own in words.items()
    }


def _stem(word: str) -> str:
    """The word in lower case, without general words at its end: trainset is train; empty for a general word."""
    folded = word.casefold()
    if folded in GENERAL_WORDS:
        return ""
    for general in GENERAL_WORDS:
        if folded.removesuffix(general) in ROLES:
            return folded.removesuffix(general)
    return folded


def _named_splits(by_role: dict[str, list[str]], others: list[str]) -> tuple[str, str]:
    """The training and the test folder, if there is one of each and nothing else. Raises UnusableUpload."""
    train, test, validation = by_role[TRAIN], by_role[TEST], by_role[VALIDATION]
    if len(train) == 1 and len(test) == 1 and not validation and not others:
        return train[0], test[0]
    if others:
        action = f"leave out {_listed(others)}, which is neither '{TRAIN}' nor '{TEST}'"
    elif len(train) > 1 or len(test) > 1:
        action = f"merge {_listed(train if len(train) > 1 else test)} into one folder"
    elif test:
        action = (
            f"put the images of {_listed(validation)} into '{train[0]}', of which a job's 'validation' holds out a "
            f"share, or put all images for testing into '{test[0]}'"
        )
    else:
        action = (
            f"put all images for testing into '{TEST}', or leave out {_listed(validation)}: 'test_fraction' then "
            "draws a test split"
        )
    seen = ", ".join(sorted([*train, *test, *validation, *others])[:NAMED_FOLDERS])
    raise UnusableUpload("unknown_format", f"the zip has the folders {seen}; {action}")


def _refuse_split_beside_others(tops: dict[str, Top], roles: dict[str, str | None]) -> None:
    """Raise UnusableUpload if a folder has the name of a split and the classes inside, whatever the others are."""
    for name in sorted(tops):
        top = tops[name]
        if len(tops) > 1 and roles[name] and len(top.inner) > 1 and not top.has_images:
            others = _listed(sorted(set(tops) - {name}))
            raise UnusableUpload(
                "unknown_format",
                f"the folder '{name}' seems to be a split, with the classes {_listed(in_order(top.inner))}; name the "
                f"folders of the splits '{TRAIN}' and '{TEST}', and leave out {others} if there are others. If "
                f"'{name}' is a class, put its images directly into it",
            )


def _refuse_splits_of_classes(names: Sequence[str]) -> None:
    """Raise UnusableUpload if each name has the word of a split, and one differs from another in this word alone:
    trainA and testA, cats_train and cats_test."""
    roles: dict[tuple[str, ...], set[str]] = {}  # by the other words of a name
    for words in _words_of(names).values():
        own = [word for word in words if word in ROLES]
        if len(own) != 1:
            return
        roles.setdefault(tuple(word for word in words if word not in ROLES), set()).add(ROLES[own[0]])
    if any(TRAIN in own and len(own) > 1 for own in roles.values()):
        raise UnusableUpload(
            "unknown_format",
            f"the folders {_listed(sorted(names))} seem to be parts of splits; put the images for training into "
            f"'{TRAIN}' and those for testing into '{TEST}', with one folder per class in each. If they are classes, "
            "give them names without the words of splits",
        )


def _refuse_repeated_classes(tops: dict[str, Top]) -> None:
    """Raise UnusableUpload if a folder has sub-folders, two at least, with the names of the folders beside it."""
    for name in sorted(tops):
        top = tops[name]
        if len(top.inner) > 1 and not top.has_images and name not in top.inner and top.inner <= tops.keys():
            raise UnusableUpload(
                "unknown_format",
                f"the folder '{name}' has the folders {_listed(in_order(top.inner))}, which are also beside it; leave "
                f"out '{name}' if it repeats them",
            )


def _refuse_same_folders(tops: dict[str, Top]) -> None:
    """Raise UnusableUpload if the folders have the same sub-folders and no images beside them.

    A class that one split lacks makes no difference: of all sub-folders, two at least, half or more are shared. One
    alone may be a habit: cats/images/1.png, dogs/images/1.png.
    """
    if len(tops) < 2 or any(top.has_images or not top.inner for top in tops.values()):
        return
    inner = [top.inner for top in tops.values()]
    shared, every = frozenset.intersection(*inner), frozenset.union(*inner)
    if len(every) < 2 or 2 * len(shared) < len(every):
        return
    seen = f"the folders {_listed(sorted(tops))} have the same sub-folders, {_listed(in_order(shared))}, and no images"
    roles = roles_of(sorted(shared))
    if {TRAIN, TEST} <= set(roles.values()) or {TRAIN, VALIDATION} <= set(roles.values()):
        action = f"put the splits at the top, and one folder per class into each: '{TRAIN}/{min(tops)}/…'"
    else:
        action = (
            f"if they are splits, name them '{TRAIN}' and '{TEST}'; if they are the classes, put their images directly "
            "into them"
        )
    raise UnusableUpload("unknown_format", f"{seen}; {action}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED_FOLDERS} more" if len(names) > NAMED_FOLDERS else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED_FOLDERS]) + more
