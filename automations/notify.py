"""Saves a web hook on the Prefect server and prints notify.yaml with its id: `python automations/notify.py URL`."""

import re
import sys
from pathlib import Path

from prefect.blocks.notifications import CustomWebhookNotificationBlock

from thaw.project import pipeline


def slug(name: str) -> str:
    """A name of small letters, digits and dashes, as blocks have to have."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "project"


def main(url: str) -> None:
    hook = CustomWebhookNotificationBlock(name="thaw", url=url, json_data={"text": "{{subject}}\n{{body}}"})
    block = hook.save(f"thaw-notify-{slug(pipeline.project())}", overwrite=True)
    print(Path(__file__).with_suffix(".yaml").read_text().replace("BLOCK", str(block)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python automations/notify.py URL")
    main(sys.argv[1])
