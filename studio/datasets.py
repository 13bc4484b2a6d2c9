"""Pictures and captions that were uploaded to be trained on: a folder per set, named by what is in it."""

import hashlib
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.spec.dataset import CAPTION_SUFFIX
from pipelines.spec.errors import InvalidRequest, StorageError
from studio.inputs import InputStore

MAX_FILES = 2000
MAX_CAPTION_BYTES = 64 * 2**10
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif")


class DataSets:
    """Keeps what was uploaded. The same files make the same folder, so that a training finds it again.

    Args:
        folder: where the sets are; made when first needed.
        inputs: keeps the files themselves, each checked, and each once.
    """

    def __init__(self, folder: Path, inputs: InputStore) -> None:
        self._folder, self._inputs = folder, inputs

    def put(self, files: Sequence[Path]) -> Path:
        """Store pictures, and captions that are called as their picture; return the folder to train on.

        Raises:
            InvalidRequest: a file is neither, or is damaged or too large.
            StorageError: the disk refused.
        """
        if len(files) > MAX_FILES:
            raise InvalidRequest(f"data: at most {MAX_FILES} files, got {len(files)}; leave some out", field="data")
        called: dict[str, str] = {}
        for file in files:
            if (other := called.get(_name(file))) is not None:
                names = file.name if file.name == other else f"{other} and {file.name}"
                raise InvalidRequest(f"data: two of the files have the same name, {names}; rename one", field="data")
            called[_name(file)] = file.name
        captions = {_name(file): _caption(file) for file in files if file.suffix.lower() == CAPTION_SUFFIX}
        pictures = {
            _name(file): self._inputs.path(self._put(file)) for file in files if file.suffix.lower() != CAPTION_SUFFIX
        }
        return self._keep(pictures, captions)

    def put_inputs(self, captions: Mapping[str, str]) -> Path:
        """Make a set of stored inputs; return the folder to train on.

        Args:
            captions: id of the input -> what it shows; empty where nothing is said.

        Raises:
            NotFound: there is no such input.
            StorageError: the disk refused.
        """
        pictures = {f"{each}.{self._inputs.kind(each)}": self._inputs.path(each) for each in captions}
        texts = {f"{each}{CAPTION_SUFFIX}": caption for each, caption in captions.items() if caption}
        return self._keep(pictures, texts)

    def holds(self, folder: Path) -> bool:
        """Whether a folder is one of these sets."""
        return folder.resolve().parent == self._folder.resolve()

    def _keep(self, pictures: Mapping[str, Path], captions: Mapping[str, str]) -> Path:
        known = [(name, path.name) for name, path in pictures.items()] + [*captions.items()]
        folder = self._folder / hashlib.sha256(repr(sorted(known)).encode()).hexdigest()[:32]
        if not folder.is_dir():
            try:
                self._fill(folder, pictures, captions)
            except OSError as error:
                raise StorageError(f"cannot write the pictures to {folder}: {error.strerror or error}") from error
        return folder

    def _put(self, file: Path) -> str:
        if file.suffix.lower() not in PICTURE_SUFFIXES:
            kinds = " ".join((*PICTURE_SUFFIXES, CAPTION_SUFFIX))
            raise InvalidRequest(f"data: {file.name[:80]!r} is none of {kinds}; leave it out", field="data")
        try:
            return self._inputs.put(file, field="data")
        except InvalidRequest as error:
            raise InvalidRequest(f"{error} ({file.name[:80]})", field="data") from error

    def _fill(self, folder: Path, pictures: Mapping[str, Path], captions: Mapping[str, str]) -> None:
        """Make the folder beside its place first: it appears whole or not at all, whoever makes it too."""
        unfinished = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        unfinished.mkdir(parents=True)
        try:
            for name, path in pictures.items():
                try:
                    (unfinished / name).hardlink_to(path)
                except OSError:  # a file system without links
                    shutil.copyfile(path, unfinished / name)
            for name, caption in captions.items():
                (unfinished / name).write_text(caption, encoding="utf-8")
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():  # else somebody was quicker
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _name(file: Path) -> str:
    """Return a name of ours: what a browser calls a file may mean something to a shell or a file system."""
    return re.sub(r"[^\w-]", "_", file.stem)[:100] + file.suffix.lower()


def _caption(file: Path) -> str:
    data = file.read_bytes()[: MAX_CAPTION_BYTES + 1]
    if len(data) > MAX_CAPTION_BYTES:
        raise InvalidRequest(f"data: the caption {file.name[:80]} has more than 64 KiB; shorten it", field="data")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"data: the caption {file.name[:80]} is not UTF-8 text; save it as such", field="data"
        ) from error
