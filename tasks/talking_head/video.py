"""Where films were read in earlier versions: scripts outside know it by this name
(:mod:`tasks.data.recordings.reading`)."""

from tasks.data.recordings.reading import read_clip

__all__ = ["read_clip"]
