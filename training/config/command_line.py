"""Mistakes on a command line, told in one line."""

from __future__ import annotations

import argparse

from training.config.fields import ConfigError


class OneLineErrors(argparse.ArgumentParser):
    """A command line, of which a mistake is a `ConfigError`, told in one line without the usage."""

    def error(self, message):
        raise ConfigError(message)
