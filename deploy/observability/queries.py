"""Takes PromQL apart as far as names are concerned; whether it parses is promtool's to say."""

import re

STRING = re.compile(r'"(?:\\.|[^"\\])*"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^{}]*)\}")
NAME = re.compile(r"(?<![\w:$.])([a-zA-Z_:][\w:]*)")
WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


def blank_strings(query):
    """The query with its strings emptied, so that braces and words in them are no syntax."""
    return STRING.sub('""', query)


def selectors(query):
    """[(series, labels it is selected by)], also of those without braces."""
    bare = blank_strings(query)
    found = [(name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in SELECTOR.findall(bare)]
    bare = re.sub(r"\[[^\]]*\]", "", GROUPING.sub("", SELECTOR.sub("", bare)))
    for match in NAME.finditer(bare):
        is_call = bare[match.end():].lstrip().startswith("(")
        if match[1].lower() not in WORDS and not is_call:
            found.append((match[1], set()))
    return found


def matched_values(query):
    """[(series, label, value)] of all matchers; of a regular expression each alternative."""
    strings = STRING.findall(query)
    numbers = iter(range(len(strings)))
    numbered = STRING.sub(lambda _: f'"{next(numbers)}"', query)
    for name, labels in SELECTOR.findall(numbered):
        for label, number in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"(\d+)"', labels):
            for value in strings[int(number)][1:-1].split("|"):
                yield name, label, value


def grouped_by(query):
    """Labels that it is grouped or matched by."""
    return {label for labels in GROUPING.findall(blank_strings(query)) for label in re.findall(r"\w+", labels)}


def rated(query):
    """Series in rate() and increase()."""
    return re.findall(r"\b(?:rate|irate|increase)\(\s*([a-zA-Z_:][\w:]*)", query)
