"""What goes wrong because of an input, or of the machine, said in one sentence that names it."""


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


def one_sentence(error: Exception) -> str:
    """Return what an error says in a line; of the operating system's without number and quotes."""
    if isinstance(error, OSError) and error.strerror:
        # Of two names, of what is moved or copied, the second is where it goes.
        files = [str(file) for file in (error.filename, error.filename2) if file]
        return f"{' -> '.join(files)}: {error.strerror}" if files else error.strerror
    return " ".join(str(error).split())


def out_of_memory(error: Exception) -> bool:
    """Return whether Python, NumPy or PyTorch could not have the memory they asked for."""
    said = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)
