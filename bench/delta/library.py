"""The peers that are Python libraries, one operation a process: ``library.py TOOL VERB A B OUT``.

``diff BASE TARGET PATCH`` and ``apply BASE PATCH TARGET``.
"""

import sys
from pathlib import Path


def main(tool: str, verb: str, *names: str) -> None:
    base, other, output = (Path(name) for name in names)
    if tool == "bsdiff4":
        import bsdiff4

        if verb == "diff":
            bsdiff4.file_diff(str(base), str(other), str(output))
        else:
            bsdiff4.file_patch(str(base), str(output), str(other))
        return
    import hdiffpatch

    if verb == "diff":
        best = hdiffpatch.Lzma2Config.best_compression()
        made = hdiffpatch.diff(base.read_bytes(), other.read_bytes(), best, validate=False)
    else:
        made = hdiffpatch.apply(base.read_bytes(), other.read_bytes())
    output.write_bytes(made)


if __name__ == "__main__":
    main(*sys.argv[1:])
