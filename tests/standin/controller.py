"""The queue and the executors: decides what becomes of a request to build."""

import collections
import secrets
import threading
import time

from . import model

DEFAULT_QUIET_PERIOD_S = 5
LEFT_ITEMS_LIVE_S = 300


class Vetoed(Exception):
    """Something in this Jenkins refuses to queue the job."""


class Controller:
    """Jobs, queue and builds of one Jenkins, across its restarts. All of it is guarded by one lock."""

    def __init__(self, clock, runner, url_of_job, root_url):
        self.clock = clock
        self.runner = runner
        self._url_of_job = url_of_job
        self._root_url = root_url
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.jobs = {}  # by lower-case full name: a plain controller does not tell names by case
        self.items = collections.OrderedDict()  # by queue id, those that left included
        self.last_item = 0
        self.executors = 2
        self.quieting = False
        self.vetoed = set()
        # While positive, an item that left shows no executable for so long: real for some milliseconds.
        self.executable_delay = 0
        self.up = True
        self.session = secrets.token_hex(4)
        self._closing = False
        self._threads = []
        self._timer = threading.Thread(target=self._tick, name="standin-queue", daemon=True)
        self._timer.start()

    # Jobs

    def job(self, full_name):
        return self.jobs.get(full_name.lower())

    def add_job(self, full_name, xml):
        with self.lock:
            job = model.Job(full_name, xml)
            self.jobs[full_name.lower()] = job
            return job

    def children(self, parent):
        found = [job for job in self.jobs.values() if job.parent.lower() == parent.lower()]
        return sorted(found, key=lambda job: job.full_name.lower())

    def disable(self, job):
        with self.lock:
            job.disabled = True
            self._drop_items_of(job)

    def delete(self, job):
        with self.lock:
            for other in list(self.jobs.values()):
                if other is job or other.full_name.lower().startswith(job.full_name.lower() + "/"):
                    other.deleted = True
                    del self.jobs[other.full_name.lower()]
                    self._drop_items_of(other)
                    for build in other.running:
                        build.aborted_by = "SYSTEM"

    def _drop_items_of(self, job):
        for item in self.queued():
            if item.job is job:
                item.leave(self.clock.now())

    # Queue

    def queued(self):
        """What is in the queue, in the order in which Jenkins lists it."""
        now_in = [item for item in self.items.values() if item.state != "left"]
        waiting = sorted((i for i in now_in if i.state == "waiting"), key=lambda i: (i.due, i.number))
        blocked = [i for i in now_in if i.state == "blocked"]
        buildable = [i for i in now_in if i.state == "buildable"]
        return waiting + blocked + buildable[::-1]

    def schedule(self, job, parameters, cause, delay=None):
        """Queue a build; returns (item, whether it is new). An equal item that did not start yet is used again."""
        with self.lock:
            if job.full_name in self.vetoed:
                raise Vetoed
            if delay is None:
                delay = job.config.quiet_period
            if delay is None:
                delay = DEFAULT_QUIET_PERIOD_S
            now = self.clock.now()
            due = now + max(delay, 0)
            self._maintain()
            for item in self.queued():
                if item.job is job and item.parameters == parameters:
                    item.causes.append(cause)
                    item.due = min(item.due, due)  # asking again never makes it later
                    self._maintain()
                    return item, False
            self.last_item += 1
            item = model.Item(self.last_item, job, parameters, cause, now, due)
            self.items[item.number] = item
            self._maintain()
            return item, True

    def item(self, number):
        """An item that is queued, or left less than five minutes ago."""
        with self.lock:
            self._maintain()
            return self.items.get(number)

    def cancel(self, item):
        with self.lock:
            item.leave(self.clock.now())
            self.changed.notify_all()

    def executable_of(self, item):
        """The build an item has become, as far as it shows already."""
        if item.build and self.clock.now() - item.left_at >= self.executable_delay:
            return item.build
        return None

    def busy(self):
        return [build for job in self.jobs.values() for build in job.running]

    def kick(self):
        """Look at the queue again after something changed."""
        with self.lock:
            self._maintain()
            self.changed.notify_all()

    def _tick(self):
        with self.lock:
            while not self._closing:
                self._maintain()
                now = self.clock.now()
                dues = [item.due - now for item in self.items.values() if item.state == "waiting"]
                self.changed.wait(max(0.001, min(dues + [0.5])))

    def _maintain(self):
        now = self.clock.now()
        for number, item in list(self.items.items()):
            if item.state == "left" and now - item.left_at >= LEFT_ITEMS_LIVE_S:
                del self.items[number]
        if not self.up:
            return
        for item in list(self.items.values()):
            if item.state == "left" or (item.state == "waiting" and item.due > now):
                continue
            if item.buildable_since is None:
                item.buildable_since = now
            if item.job.running and not item.job.config.concurrent:
                item.state = "blocked"
                continue
            item.state = "buildable"
            if not self.quieting and len(self.busy()) < self.executors:
                self._start(item, now)

    # Builds

    def _start(self, item, now):
        job = item.job
        build = model.Build(job, item, job.next_number, now)
        taken = {other.executor for other in self.busy()}
        build.executor = next(number for number in range(self.executors) if number not in taken)
        job.next_number += 1
        job.builds[build.number] = build
        item.leave(now, build)
        thread = threading.Thread(target=self._run, args=(build,), name=f"standin-{build!r}", daemon=True)
        self._threads = [old for old in self._threads if old.is_alive()] + [thread]
        thread.start()

    def _run(self, build):
        result = "FAILURE"
        began = time.monotonic()
        try:
            result = self.runner.run(build, self._url_of_job(build.job), self._root_url())
        finally:
            with self.lock:
                build.result = result
                build.duration_ms = int((time.monotonic() - began) * 1000)
                build.building = False
                self._maintain()
                self.changed.notify_all()

    # Life

    def start_again(self, kill):
        """What a restart does to the state. The caller sees to the listener, and to `up`."""
        with self.lock:
            for job in self.jobs.values():
                for build in job.running:
                    # A running freestyle build has no record on disk yet, so it is gone either way.
                    del job.builds[build.number]
                    build.abandoned = kill
                    if not kill:
                        build.aborted_by = "SYSTEM"
            kept = [] if kill else [item for item in self.items.values() if item.state != "left"]
            for item in kept:
                item.state = "waiting"
                item.buildable_since = None
            self.items = collections.OrderedDict((item.number, item) for item in kept)
            if kill:
                self.last_item = 0
            self.quieting = False
            self.session = secrets.token_hex(4)

    def close(self):
        """Stop everything that runs; leaves no process and no thread."""
        with self.lock:
            self._closing = True
            self.up = False
            for build in self.busy():
                build.aborted_by = build.aborted_by or "SYSTEM"
            self.changed.notify_all()
        self._timer.join(timeout=5)
        self.runner.kill_everything()
        for thread in self._threads:
            thread.join(timeout=5)
        self.runner.kill_everything()
