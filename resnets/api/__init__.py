"""The functions of `import resnets`: what the command line does, called from Python."""

from importlib.metadata import version

__version__ = version("resnets")
