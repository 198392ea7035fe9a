"""What a controller knows: users, jobs, queue items, builds."""

import secrets
from collections import namedtuple

from . import config, runner

READ = "hudson.model.Hudson.Read"
ADMINISTER = "hudson.model.Hudson.Administer"
ITEM_READ = "hudson.model.Item.Read"
DISCOVER = "hudson.model.Item.Discover"
BUILD = "hudson.model.Item.Build"
CREATE = "hudson.model.Item.Create"
CONFIGURE = "hudson.model.Item.Configure"
DELETE = "hudson.model.Item.Delete"
CANCEL = "hudson.model.Item.Cancel"

COLORS = {"SUCCESS": "blue", "UNSTABLE": "yellow", "FAILURE": "red", "ABORTED": "aborted"}

# A cause of a build: by a user, or by somebody who knew the job's token.
Cause = namedtuple("Cause", "user address note")


class User:
    """Somebody with a password, an API token and permissions; the secrets are made up at every start of a test."""

    def __init__(self, name, permissions, everything=False):
        self.name = name
        self.permissions = set(permissions)
        self.everything = everything
        self.password = secrets.token_urlsafe(12)
        self.api_token = "11" + secrets.token_hex(16)

    def may(self, permission):
        return self.everything or permission in self.permissions


def lab_users():
    """The users of the recordings: one for each way Jenkins can say no."""
    users = [
        User("admin", (), everything=True),
        User("builder", (READ, ITEM_READ, BUILD)),
        User("limited", (READ, ITEM_READ)),
        User("discover", (READ, DISCOVER)),
        User("blind", (READ,)),
    ]
    return {user.name: user for user in users}


class Job:
    """A job or a folder, with its builds by number."""

    def __init__(self, full_name, xml):
        self.full_name = full_name
        self.configure(xml)
        self.builds = {}
        self.next_number = 1
        self.deleted = False

    def configure(self, xml):
        self.config = config.parse(xml)
        self.xml = xml
        self.disabled = self.config.disabled

    @property
    def name(self):
        return self.full_name.rsplit("/", 1)[-1]

    @property
    def parent(self):
        return self.full_name.rpartition("/")[0]

    @property
    def buildable(self):
        return not (self.disabled or self.deleted or self.config.is_folder)

    @property
    def running(self):
        return [build for build in self.newest_first() if build.building]

    def newest_first(self):
        return [self.builds[number] for number in sorted(self.builds, reverse=True)]

    def finished(self, *results):
        """Finished builds, newest first; of these results if any are given."""
        done = [build for build in self.newest_first() if not build.building]
        return [build for build in done if not results or build.result in results]

    @property
    def color(self):
        if self.disabled or self.deleted:
            return "disabled"
        done = self.finished()
        base = COLORS[done[0].result] if done else "notbuilt"
        return base + "_anime" if self.running else base

    def estimate_ms(self):
        """Mean duration of the last three good builds, -1 when there is none."""
        good = self.finished("SUCCESS", "UNSTABLE")[:3]
        return sum(build.duration_ms for build in good) // len(good) if good else -1


class Item:
    """One entry of the queue, and what is remembered of it for five minutes after it left."""

    def __init__(self, number, job, parameters, cause, now, due):
        self.number = number
        self.job = job
        self.parameters = parameters  # None for a job without, a tuple of config.Value otherwise
        self.causes = [cause]
        self.since = now
        self.due = due
        self.state = "waiting"  # then blocked or buildable, then left
        self.buildable_since = None
        self.cancelled = False
        self.build = None
        self.left_at = None

    def leave(self, now, build=None):
        self.state = "left"
        self.left_at = now
        self.build = build
        self.cancelled = build is None


class Build:
    """One run of a job's shell steps."""

    def __init__(self, job, item, number, started):
        self.job = job
        self.number = number
        self.queue_id = item.number
        self.values = item.parameters
        self.causes = item.causes
        self.started = started
        self.duration_ms = 0
        self.building = True
        self.result = None
        self.aborted_by = None
        self.abandoned = False  # its controller was killed: nobody reads its output any more
        self.raw_log = b""
        self.executor = 0

    @property
    def parameters(self):
        """The parameters by name, as text, as the shell step saw them."""
        return {value.name: as_text(value) for value in self.values or ()}

    @property
    def log(self):
        return runner.without_notes(self.raw_log).decode("utf-8", "replace")

    def __repr__(self):
        return f"<Build {self.job.full_name} #{self.number} {self.result or 'building'}>"


def as_text(value):
    """A parameter's value as an environment variable shows it."""
    if value.kind == "Boolean":
        return "true" if value.value else "false"
    return value.value
