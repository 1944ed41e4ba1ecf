"""Checks that the configurations of all components share."""

from typing import Any

from deqflow.errors import ConfigError

LARGEST = 8192
"""No channel count or repetition comes near; a configuration read from a file must not ask for more."""


def require_sizes(component: str, **sizes: Any) -> None:
    """Raise ConfigError unless every number (or every number of a tuple) is a whole one from 1 to 8192."""
    for name, value in sizes.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(type(number) is int and 1 <= number <= LARGEST for number in numbers):
            raise ConfigError(
                f"{name} of the {component} is {value}; every size must be a whole number from 1 to {LARGEST}"
            )


def require_choice(component: str, name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raise ConfigError unless ``value`` is one of the choices."""
    if value not in choices:
        raise ConfigError(
            f"{name} of the {component} is {value!r}; expected one of {', '.join(map(repr, choices))}"
        )
