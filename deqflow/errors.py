"""What goes wrong because of an input, said in one sentence that names it."""


class DeqflowError(ValueError):
    """Base of every error caused by a user's input; the message names it and says what was expected."""


class FlowFileError(DeqflowError):
    """A flow file that cannot be read or written."""


class ImageError(DeqflowError):
    """An image file or array that cannot serve as a frame."""


class VideoError(DeqflowError):
    """A video source that cannot be opened, read or written."""


class CheckpointError(DeqflowError):
    """A file of weights or training state that does not fit or cannot be trusted."""


class ConfigError(DeqflowError):
    """An option or a configuration field outside its range."""


class DataError(DeqflowError):
    """A data set, texture folder or manifest that is missing something."""


class TrainingError(DeqflowError):
    """A training run that cannot go on: no room for its state, losses that stay infinite, dead workers."""


class DivergenceError(TrainingError):
    """A training run whose loss or gradient was infinite or not a number in too many steps in a row."""


class DeqflowWarning(UserWarning):
    """Base of every warning about a user's input; the message names it."""


class DataWarning(DeqflowWarning):
    """Something in a data set that is left out."""


class MissingExtraError(DeqflowError):
    """A task whose libraries are not installed; the message names the extra that brings them."""


class FlowClippedWarning(DeqflowWarning):
    """Flow written to a file whose format cannot hold all of its values."""


class VideoWarning(DeqflowWarning):
    """A video source with damaged or missing frames, all others of which are used."""
