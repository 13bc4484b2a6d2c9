"""Why a file cannot be applied, in words that do not name the file."""


class Unfit(Exception):
    """The file does not fit the model."""


class Unreadable(Unfit):
    """The file fits no model: what it says cannot be meant, or is of a kind that is not known."""
