"""Ways to make the sum over clients. One file each; ``RELEASES`` maps a config name to its class."""

RELEASES: dict[str, str] = {
    "plain": "privacy.releases.plain:Plain",
}
