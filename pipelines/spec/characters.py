"""Characters that a text may hold in Python, and no file or page can."""


def whole(text: str) -> str:
    """Return a text with a mark for each half of a surrogate pair, which JSON can spell."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
