"""Pages of the documentation, their code blocks, and the projects that these add up to.

The rule that the pages follow, and tell their readers: a block whose first line is a comment with a
path is a file of a fresh project. The first block of a path on a page replaces the file, and each
further one is added at its end; ``project/settings.py`` is always added to. The files of the
README's quick start are there on every other page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages for those who change the package; they have no examples to run.
FOR_DEVELOPERS = [ROOT / "CONTRIBUTING.md", ROOT / "tests" / "README.md"]

#: The files that are added to by every block.
ADDED_TO = {"project/settings.py"}

_FENCE = re.compile(r"^( *)(```+)(\S*)[^\n]*\n(.*?)^\1\2[ ]*$", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"(?:#|<!--) (?P<path>[\w./-]+\.(?:py|html|toml|ini))(?: -->)?")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of its page on which the text begins."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def path(self) -> str | None:
        """The file that the block is, or is a part of."""
        found = _PATH.fullmatch(self.text.partition("\n")[0])
        return None if found is None else found["path"]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        indent, _, language, body = match.groups()
        if indent:
            body = re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
        found.append(Block(page, text.count("\n", 0, match.start(4)) + 1, language, body))
    return found


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def files(page: Path) -> dict[str, str]:
    """Return the files of a page by path, put together from its blocks."""
    found: dict[str, str] = {}
    for block in blocks(page):
        path = block.path
        if path is not None:
            found[path] = f"{found[path]}\n\n{block.text}" if path in found else block.text
    return found


class Project:
    """A fresh ``startproject``, into which the README and then other pages are pasted."""

    def __init__(self, directory: Path, template: Project | None = None) -> None:
        """Run ``startproject``, or copy the result of another one."""
        self.directory = directory
        if template is not None:
            shutil.copytree(template.directory, directory)
        else:
            directory.mkdir(parents=True)
            self.run("-m", "django", "startproject", "project", ".", settings=None)

    def paste(self, *pages: Path) -> None:
        """Put the files of the pages where they say; new folders become packages."""
        for page in pages:
            for path, text in files(page).items():
                self.write(path, text)

    def write(self, path: str, text: str) -> None:
        """Write a file, or add to it."""
        target = self.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".py" and target.parent != self.directory:
            # An app has them from `startapp`; they are empty.
            (target.parent / "__init__.py").touch()
            if target.name == "models.py":
                (target.parent / "migrations").mkdir(exist_ok=True)
                (target.parent / "migrations" / "__init__.py").touch()
        before = target.read_text() if path in ADDED_TO and target.exists() else ""
        target.write_text(f"{before}\n\n{text}" if before else text, encoding="utf-8")

    def modules(self) -> list[str]:
        """Return the dotted names of the modules that pages have put there."""
        found = [path.relative_to(self.directory) for path in self.directory.rglob("*.py")]
        return sorted(
            ".".join(path.with_suffix("").parts)
            for path in found
            if path.name not in {"manage.py", "wsgi.py", "__init__.py", "settings.py"}
            and not path.name.startswith("test_")
        )

    def manage(self, *arguments: str) -> str:
        """Run a management command; return what it wrote."""
        return self.run("manage.py", *arguments)

    def run(self, *arguments: str, settings: str | None = "project.settings") -> str:
        """Run Python in the project; return what it wrote. Raises where it failed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            env=self.environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(arguments)} failed:\n{done.stdout}")
        return done.stdout

    def environment(
        self, settings: str | None = "project.settings", extra: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Return the environment of a process of this project, whatever that of the tests is."""
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
        kept["PYTHONPATH"] = os.pathsep.join([str(self.directory), str(ROOT)])
        kept["PYTHONDONTWRITEBYTECODE"] = "1"
        if settings is not None:
            kept["DJANGO_SETTINGS_MODULE"] = settings
        return kept | dict(extra or {})

    def popen(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start Python in the project, with its output in a file."""
        with log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
