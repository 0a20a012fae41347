"""What MkDocs calls while it builds the site: links out of docs/, and the commands' own help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]

# The programs of docs/cli.md beside keras-cvt.
_TRAINING = (
    "train",
    "evaluate",
    "prepare",
    "supervise",
    "compare",
    "show_batch",
    "search",
    "ablate",
    "demo",
)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Changes a page's text before it is rendered."""
    if page.file.src_uri == "cli.md":
        markdown += _commands()
    # In a checkout these links lead to files beside docs/; the site has only docs/.
    return re.sub(
        r"\]\((?:\.\./)+(colab|benchmarks|training|keras_cvt|tests)/",
        rf"]({config.repo_url}/blob/main/\1/",
        markdown,
    )


def _commands() -> str:
    overview = _help("keras_cvt")
    lines = ["\n## keras-cvt\n", overview]
    for name in re.findall(r"^    (\w+) ", overview, re.MULTILINE):
        lines += [f"\n## keras-cvt {name}\n", _help("keras_cvt", name)]
    for name in _TRAINING:
        lines += [f"\n## python -m training.{name}\n", _help(f"training.{name}")]
    return "\n".join(lines)


def _help(*command: str) -> str:
    """What a command says of itself, as a block of text."""
    command = [sys.executable, "-m", *command, "--help"]
    ran = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True)
    return f"```text\n{ran.stdout.strip()}\n```"
