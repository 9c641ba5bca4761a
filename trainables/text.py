"""Text from anywhere, made fit for one line of a terminal, a log or a record."""


def one_line(text: str) -> str:
    """The text in one line without control characters, which could garble a terminal or a record."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
