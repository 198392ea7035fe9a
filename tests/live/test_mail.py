"""handler_mail under a real Sensu Go: what its filter lets through, and what becomes of it at a real mail server."""

import json
import os
import pathlib
import time

from tests.handlers.smtp import Sink, text
from tests.live.containers import wait_until
from tests.live.sensu_go import Lab
from tests.test_definitions import CHECKS

CHECK = """\
type: CheckConfig
api_version: core/v2
metadata:
  name: {name}
  annotations:
    sensu.io/plugins/handler_mail/config/to: {to}
spec:
  command: echo "output of {name}"; exit $(cat {status})
  subscriptions: [lxc]
  interval: 1
  publish: true
  handlers: [mail]
  low_flap_threshold: {low}
  high_flap_threshold: {high}
"""


def test_each_change_is_mailed_once(sensu_go_lab: Lab, tmp_path: pathlib.Path) -> None:
    lab = sensu_go_lab
    lab.install("handlers", lab.backend_etc)
    os.chmod(tmp_path, 0o755)
    with Sink() as sink:
        configure(lab, sink)
        lab.start_backend()
        lab.create(os.path.join(CHECKS, "sensu-go", "mail.yaml"))
        statuses = {}
        for name, low, high in (("steady", 0, 0), ("flappy", 20, 40)):
            statuses[name] = tmp_path / name
            statuses[name].write_text("0")
            lab.create(CHECK.format(name=name, to=f"{name}@example.com", status=statuses[name], low=low, high=high))
        lab.start_agent()

        def changes(name: str) -> "list[str]":
            mails = [message for message in sink.messages if message["X-Sensu-Check"] == name]
            assert all(message["To"] == f"{name}@example.com" for message in mails)
            assert all(f"output of {name}\n" in text(message) for message in mails)
            return [message["X-Sensu-Change"] for message in mails]

        def status(name: str, number: int) -> None:
            statuses[name].write_text(str(number))
            lab.wait_for_event(lab.entity, name, lambda event: event["check"]["status"] == number)

        lab.wait_for_event(lab.entity, "steady", lambda event: event["check"]["occurrences"] > 3)
        assert not lab.handled("mail"), "an OK without a failure before it starts no handler"
        status("steady", 1)
        status("steady", 2)
        lab.wait_for_event(lab.entity, "steady", lambda event: event["check"]["occurrences"] > 3)
        # The mail of the recovery is not taken, and goes with the next OK.
        sink.replies["DATA"] = ["451 not now"]
        status("steady", 0)
        wait_until(lambda: len(changes("steady")) == 3, 30, "the mail of the recovery")
        assert changes("steady") == ["WARNING", "CRITICAL, was WARNING", "OK, was CRITICAL"]
        assert sink.replies["DATA"] == [], "the first try was refused"

        for number in range(60):
            statuses["flappy"].write_text("20"[number % 2])
            event = lab.event(lab.entity, "flappy")
            if event and event["check"]["state"] == "flapping":
                break
            time.sleep(1)
        statuses["flappy"].write_text("0")
        lab.wait_for_event(lab.entity, "flappy", lambda event: event["check"]["state"] == "passing", timeout=60)
        wait_until(lambda: changes("flappy")[-1:] == ["OK, was FLAPPING"], 10, "the mail of its end")
        assert changes("flappy").count("FLAPPING, was CRITICAL") + changes("flappy").count("FLAPPING") == 1

    # Sensu logs a handler that fails otherwise than these.
    told = {run["output"].split(":")[0] for run in lab.handled("mail")}
    assert told == {"handler_mail ACT sent", "handler_mail HOLD no-change", "handler_mail HOLD ok"}


def configure(lab: Lab, sink: Sink) -> None:
    """Put handler_mail's settings where checks/handlers/mail.json goes, changed as an administrator would."""
    with open(os.path.join(CHECKS, "handlers", "mail.json"), encoding="utf-8") as file:
        settings = json.load(file)
    ours = settings["lxc_mail"]
    del ours["user"], ours["password_file"]
    ours.update(server=lab.host_address, port=lab.relay(sink.port), tls="none")
    ours["state_file"] = os.path.join(lab.directory, "state", "mail.sqlite")
    folder = os.path.join(lab.backend_etc, "conf.d")
    os.makedirs(folder)
    with open(os.path.join(folder, "mail.json"), "w", encoding="utf-8") as file:
        json.dump(settings, file)
