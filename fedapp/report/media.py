"""Pictures and videos of a run as data URIs, so that a page can stand alone."""

from __future__ import annotations

import base64

from fedapp.store.runfolder import RunFolder


class Media:
    """Pictures and videos by name; ``None`` where the run has none."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def __call__(self, name: str) -> str | None:
        """The data URI of a picture."""
        file = self.folder.pictures / f"{name}.png"
        if not file.exists():
            return None
        return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()

    def video(self, name: str) -> tuple[str, str] | None:
        """``(kind, data URI)`` of an mp4, or of the gif where there is no mp4."""
        for kind in ("mp4", "gif"):
            file = self.folder.videos / f"{name}.{kind}"
            if file.exists():
                mime = "video/mp4" if kind == "mp4" else "image/gif"
                return kind, f"data:{mime};base64,{base64.b64encode(file.read_bytes()).decode()}"
        return None

    def films(self, prefix: str) -> list[str]:
        """Names of the videos with a prefix."""
        return [
            file.stem.removeprefix(f"{prefix}-")
            for file in self.folder.videos.glob(f"{prefix}-*.gif")
        ]

    def indices(self, prefix: str) -> list[str]:
        """Rest behind the prefix in the names of pictures, in order."""
        names = sorted(file.stem for file in self.folder.pictures.glob(f"{prefix}-*.png"))
        return [name.removeprefix(f"{prefix}-") for name in names]
