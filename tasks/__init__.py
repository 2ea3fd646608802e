"""Tasks, or what is being fitted: fields, data, losses, metrics. Torch only; nothing here knows
about federation.

``TASKS`` maps a config name to ``"module:Class"``; the module is imported only when the task is
chosen. A task of your own is one file and one line here, or ``task = "package.module:Class"`` in
the config.
"""

TASKS: dict[str, str] = {
    "image": "tasks.image:ImageTask",
    "video": "tasks.video:VideoTask",
    "nerf": "tasks.nerf:NerfTask",
    "head": "tasks.head.task:HeadTask",
    "head-template": "tasks.head.template_task:HeadTemplate",
    "split-nerf": "tasks.split_nerf.task:SplitNerf",
    "talking-head": "tasks.talking_head.task:TalkingHeadTask",
}
