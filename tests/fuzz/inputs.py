"""The committed inputs: one file a target, one input a line. It runs on both runtimes.

A line is base64; what follows white space is a remark. ``corpus/NAME.txt`` holds what covers the
code that the fuzzer reached, ``findings/NAME.txt`` what once went wrong, each with a remark.
"""

import binascii

FOLDERS = ("corpus", "findings")


def _path(folder: str, name: str) -> str:
    return __file__.replace("\\", "/").rsplit("/", 1)[0] + "/" + folder + "/" + name + ".txt"


def read(folder: str, name: str):
    """Yield the inputs of a target; none when it has no file in this folder."""
    try:
        file = open(_path(folder, name))
    except OSError:
        return
    with file:
        for line in file:
            data = _input(line)
            line = ""  # an input is all that a board has to hold
            yield data


def _input(line: str) -> bytes:
    """What a line stands for; ``-`` is an empty input."""
    word = line.split(None, 1)[0]
    return b"" if word == "-" else binascii.a2b_base64(word)


def read_all(name: str):
    """Yield every committed input of a target."""
    for folder in FOLDERS:
        yield from read(folder, name)


def write(name: str, inputs: list) -> int:
    """Replace a target's corpus, shortest first. The file's size in bytes."""
    lines = []
    for data in sorted(set(inputs), key=lambda each: (len(each), each)):
        lines.append(str(binascii.b2a_base64(data)[:-1], "ascii") or "-")
    text = "".join([line + "\n" for line in lines])
    with open(_path("corpus", name), "w") as file:
        file.write(text)
    return len(text)
