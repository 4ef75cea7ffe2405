"""Saves a web hook on the Prefect server and prints notify.yaml with its id: `python automations/notify.py URL`."""

import sys
from pathlib import Path

from prefect.blocks.notifications import CustomWebhookNotificationBlock


def main(url: str) -> None:
    hook = CustomWebhookNotificationBlock(name="thaw", url=url, json_data={"text": "{{subject}}\n{{body}}"})
    block = hook.save("thaw-notify", overwrite=True)
    print(Path(__file__).with_suffix(".yaml").read_text().replace("BLOCK", str(block)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python automations/notify.py URL")
    main(sys.argv[1])
