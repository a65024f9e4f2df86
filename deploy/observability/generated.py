"""Writes generated files, or checks that what is committed is what is made."""

import sys


def stale(folder, pattern, files):
    """What differs, a line each."""
    lines = [f"{path.name} is nothing that the source makes" for path in sorted(folder.rglob(pattern)) if path not in files]
    for path, text in files.items():
        if not path.exists():
            lines.append(f"{path.name} is missing")
        elif path.read_text() != text:
            lines.append(f"{path.name} is not what the source makes")
    return lines


def main(folder, pattern, files):
    if sys.argv[1:] == ["--write"]:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return 0
    if sys.argv[1:] == ["--check"]:
        lines = stale(folder, pattern, files)
        print("\n".join(lines) or "as committed")
        return bool(lines)
    print("give --write or --check", file=sys.stderr)
    return 2
