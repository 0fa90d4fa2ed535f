"""Takes the numbers of our kinds' fields in protobuf from Kubernetes' own descriptions (``make definitions``).

The source is Debian's ``golang-k8s-api-dev`` and ``golang-k8s-apimachinery-dev`` (``generated.proto``). What a field
is told by its name in the schema, so that numbers are all that is kept.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from overlay.services.objects.schema import definitions

_PACKAGE = re.compile(r"^package (?P<name>[\w.]+);", re.MULTILINE)
_MESSAGE = re.compile(r"^message (?P<name>\w+) \{\n(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^\s+(?:optional|repeated|map<)[^;=]*?\s(?P<name>\w+) = (?P<number>\d+)", re.MULTILINE)


def numbers(sources: Path) -> dict[str, dict[str, int]]:
    """The fields' numbers by definition, of all definitions that there are in ``sources``."""
    wanted, found = definitions(), dict[str, dict[str, int]]()
    for path in sorted(sources.rglob("generated.proto")):
        text = path.read_text()
        package = _PACKAGE.search(text)
        if package is None:
            continue
        for message in _MESSAGE.finditer(text):
            name = f"{package['name']}.{message['name']}".replace("k8s.io.", "io.k8s.", 1)
            if name in wanted:
                found[name] = {each["name"]: int(each["number"]) for each in _FIELD.finditer(message["body"])}
    return dict(sorted(found.items()))


def main(sources: Path, target: Path) -> None:
    """Writes ``target``, one definition a line."""
    found = numbers(sources)
    lines = [f"{json.dumps(name)}: {json.dumps(fields)}" for name, fields in found.items()]
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{target}: {len(found)} messages")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("numbers.json"))
