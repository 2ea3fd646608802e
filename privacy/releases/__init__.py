"""Ways to make the sum over clients. One file each; ``RELEASES`` maps a config name to its class.

A release of your own takes ``(settings: PrivacySettings, size: int)``, and third what a rule sums
beside the vector (``scalars``) if it is to serve rules that have any. It follows
``strategies.types.Release``.
"""

RELEASES: dict[str, str] = {
    "plain": "privacy.releases.plain:Plain",
    "secagg": "privacy.releases.secagg:SecAgg",
    "central-dp": "privacy.releases.central:CentralDP",
    "secagg-central-dp": "privacy.releases.central:SecAggCentralDP",
    "distributed-dp": "privacy.releases.distributed:DistributedDP",
}
