"""The queue, the builds and the restarts of the stand-in, where the recordings do not show them."""

import os
import time

import pytest
import requests

from .config import BadConfig
from .jenkins import Jenkins
from .replay import job_xml


@pytest.fixture
def jenkins(tmp_path):
    with Jenkins(work=tmp_path / "work") as standin:
        yield standin


def post(jenkins, path, user="builder", **data):
    return requests.post(f"{jenkins.url}/{path}", data=data, auth=jenkins.auth(user), timeout=5, allow_redirects=False)


def get(jenkins, path, user="builder"):
    return requests.get(f"{jenkins.url}/{path}", auth=jenkins.auth(user), timeout=5, allow_redirects=False)


def run(jenkins, command, timeout=10, **options):
    """The build of a job with this shell step."""
    jenkins.create_job("job", job_xml(quiet=0, command=command, **options))
    assert post(jenkins, "job/job/build").status_code == 201
    return jenkins.wait_for_builds("job", 1, timeout)[0]


def wait_for(what, timeout=30):
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.01)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_shell_step_runs_for_real(jenkins, tmp_path):
    jenkins.create_job("A/B/job", job_xml("usual", quiet=0, command='echo "$REQUEST_ID" > here\npwd'))
    response = post(jenkins, "job/A/job/B/job/job/buildWithParameters", REQUEST_ID="it's; $(x)")
    assert response.status_code == 201
    (build,) = jenkins.wait_for_builds("A/B/job", 1)
    assert build.result == "SUCCESS"
    assert build.parameters["REQUEST_ID"] == "it's; $(x)"
    assert f"/queue/item/{build.queue_id}/" in response.headers["Location"]
    workspace = tmp_path / "work" / "workspace" / "A" / "B" / "job"
    assert (workspace / "here").read_text(encoding="utf-8") == "it's; $(x)\n"
    assert f"\n{workspace}\n" in build.log
    assert "Started by user builder\n" in build.log
    assert build.log.endswith("Finished: SUCCESS\n")


def test_environment_of_a_step(tmp_path):
    with Jenkins(work=tmp_path, env={"LXC_PATH": "/tmp/lxc"}, prefix="/ci") as jenkins:
        jenkins.create_job("A/job", job_xml("usual", quiet=0, command="env"))
        post(jenkins, "job/A/job/job/buildWithParameters", FLAG="true")
        (build,) = jenkins.wait_for_builds("A/job", 1)
        seen = dict(line.split("=", 1) for line in build.log.splitlines() if "=" in line)
    wanted = {
        "BUILD_NUMBER": "1",
        "JOB_NAME": "A/job",
        "JOB_BASE_NAME": "job",
        "BUILD_TAG": "jenkins-A-job-1",
        "WORKSPACE": str(tmp_path / "workspace" / "A" / "job"),
        "JENKINS_URL": jenkins.url + "/",
        "BUILD_URL": f"{jenkins.url}/job/A/job/job/1/",
        "LXC_PATH": "/tmp/lxc",
        "FLAG": "true",
        "SLEEP": "0",
    }
    assert {name: seen.get(name) for name in wanted} == wanted


def test_failing_step_ends_the_build(jenkins):
    build = run(jenkins, "echo before\nfalse\necho after")
    assert build.result == "FAILURE"
    assert "before\n" in build.log and "after" not in build.log
    assert build.log.endswith("marked build as failure\nFinished: FAILURE\n")


def test_unstable_and_own_interpreter(jenkins):
    xml = job_xml(quiet=0, command="#!/bin/sh\necho quiet\nexit 9")
    jenkins.create_job("job", xml.replace("</command>", "</command><unstableReturn>9</unstableReturn>"))
    post(jenkins, "job/job/build")
    (build,) = jenkins.wait_for_builds("job", 1)
    assert build.result == "UNSTABLE"
    assert "+ echo" not in build.log  # an own #! line goes without -x


def test_stop_kills_the_step(jenkins, tmp_path):
    pid_file = tmp_path / "pid"
    jenkins.create_job("job", job_xml(quiet=0, command=f"sh -c 'echo $$ > {pid_file}; exec sleep 60'"))
    post(jenkins, "job/job/build")
    wait_for(lambda: pid_file.exists() and pid_file.read_text(encoding="utf-8").strip())
    assert post(jenkins, "job/job/1/stop", user="admin").status_code == 302
    (build,) = jenkins.wait_for_builds("job", 1)
    assert (build.result, build.aborted_by) == ("ABORTED", "admin")
    assert not is_alive(int(pid_file.read_text(encoding="utf-8")))


def test_build_takes_its_children_along_unless_they_gave_up_their_build_id(jenkins, tmp_path):
    build = run(
        jenkins,
        f"setsid sleep 61 &gt;/dev/null 2&gt;&amp;1 &amp; echo $! &gt; {tmp_path}/killed\n"
        f"BUILD_ID=dontKillMe setsid sleep 62 &gt;/dev/null 2&gt;&amp;1 &amp; echo $! &gt; {tmp_path}/spared\n",
    )
    assert build.result == "SUCCESS"
    killed, spared = (int((tmp_path / name).read_text(encoding="utf-8")) for name in ("killed", "spared"))
    wait_for(lambda: not is_alive(killed))
    assert is_alive(spared)
    jenkins.close()
    assert not is_alive(spared)  # a test leaves nothing behind


def test_close_ends_what_runs(tmp_path):
    with Jenkins(work=tmp_path) as jenkins:
        pid_file = tmp_path / "pid"
        jenkins.create_job("job", job_xml(quiet=0, command=f"trap '' TERM; echo $$ &gt; {pid_file}; sleep 60"))
        post(jenkins, "job/job/build")
        wait_for(lambda: pid_file.exists() and pid_file.read_text(encoding="utf-8").strip())
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert not is_alive(int(pid_file.read_text(encoding="utf-8")))


def test_temporary_work_is_removed():
    with Jenkins() as jenkins:
        build = run(jenkins, "pwd")
        workspace = next(line for line in build.log.splitlines() if line.endswith("/workspace/job") and line[0] == "/")
        assert os.path.isdir(workspace)
    assert not os.path.exists(os.path.dirname(os.path.dirname(workspace)))


def test_queue_coalesces_and_the_virtual_clock_ends_the_quiet_period(jenkins):
    jenkins.create_job("plain", job_xml(quiet=3600))
    locations = {post(jenkins, "job/plain/build").headers["Location"] for _ in range(3)}
    assert len(locations) == 1
    assert len(jenkins.queued()) == 1
    jenkins.advance(3601)
    (build,) = jenkins.wait_for_builds("plain", 1)
    assert len(build.causes) == 3
    assert post(jenkins, "job/plain/build").headers["Location"] not in locations


def test_left_item_is_forgotten_after_five_minutes_however_often_it_is_polled(jenkins):
    build = run(jenkins, "true")
    path = f"queue/item/{build.queue_id}/api/json"
    jenkins.advance(299)
    assert get(jenkins, path).json()["executable"]["number"] == 1
    jenkins.advance(2)
    assert get(jenkins, path).status_code == 404
    tree = "tree=builds[number,queueId,result,actions[parameters[name,value]]]"
    (known,) = get(jenkins, f"job/job/api/json?{tree}").json()["builds"]
    assert (known["number"], known["queueId"], known["result"]) == (1, build.queue_id, "SUCCESS")


def test_left_item_shows_no_executable_for_a_moment(jenkins):
    jenkins.controller.executable_delay = 60
    build = run(jenkins, "true")
    shown = get(jenkins, f"queue/item/{build.queue_id}/api/json").json()
    assert (shown["executable"], shown["cancelled"]) == (None, False)
    jenkins.advance(61)
    assert get(jenkins, f"queue/item/{build.queue_id}/api/json").json()["executable"]["number"] == 1


@pytest.mark.parametrize("profile, statuses", [("pre-2.308", [201, 201, 201]), ("2.568", [201, 303, 201])])
def test_equal_parameters(tmp_path, profile, statuses):
    with Jenkins(profile=profile, work=tmp_path) as jenkins:
        jenkins.create_job("param", job_xml("usual"))
        answers = [post(jenkins, "job/param/buildWithParameters", REQUEST_ID=each) for each in ("a", "a", "b")]
        assert [answer.status_code for answer in answers] == statuses
        first, again, other = (answer.headers["Location"] for answer in answers)
        assert first == again != other


def test_runs_one_at_a_time_unless_concurrent(jenkins, tmp_path):
    gate = tmp_path / "gate"
    command = f"while [ ! -e {gate} ]; do sleep 0.01; done"
    for name, concurrent in (("one", False), ("many", True)):
        jenkins.create_job(name, job_xml("usual", quiet=0, concurrent=concurrent, command=command))
        for request in "ab":
            post(jenkins, f"job/{name}/buildWithParameters", REQUEST_ID=request)
        running = 2 if concurrent else 1
        assert len(jenkins.builds(name)) == running
        assert [item.state for item in jenkins.queued()] == ["blocked"] * (2 - running)
        gate.touch()
        builds = jenkins.wait_for_builds(name, 2)
        assert [build.parameters["REQUEST_ID"] for build in builds] == ["a", "b"]
        gate.unlink()
    assert os.listdir(tmp_path / "work" / "workspace") and (tmp_path / "work" / "workspace" / "many@2").is_dir()


def test_quiet_down_holds_and_cancel_releases(jenkins):
    jenkins.create_job("plain", job_xml(quiet=0))
    jenkins.quiet_down()
    post(jenkins, "job/plain/build")
    assert jenkins.builds("plain") == []
    assert get(jenkins, "queue/api/json").json()["items"][0]["why"] == "Jenkins is about to shut down"
    jenkins.cancel_quiet_down()
    assert jenkins.wait_for_builds("plain", 1)[0].result == "SUCCESS"


def test_clean_restart_keeps_the_queue_and_loses_what_runs(jenkins):
    jenkins.create_job("slow", job_xml(quiet=0, command="sleep 60"))
    jenkins.create_job("plain", job_xml())
    post(jenkins, "job/slow/build")
    number = post(jenkins, "job/plain/build").headers["Location"].split("/")[-2]
    session = get(jenkins, "api/json").headers["X-Jenkins-Session"]
    url = jenkins.url
    jenkins.restart()
    assert jenkins.url == url
    assert get(jenkins, "api/json").headers["X-Jenkins-Session"] != session
    assert get(jenkins, f"queue/item/{number}/api/json").json()["id"] == int(number)
    assert jenkins.builds("slow") == []
    assert get(jenkins, "job/slow/api/json?tree=nextBuildNumber").json()["nextBuildNumber"] == 2


def test_kill_loses_the_queue_and_an_orphan_lives_until_it_speaks(jenkins, tmp_path):
    pid_file, gate, spoke = (tmp_path / name for name in ("pid", "gate", "spoke"))
    jenkins.create_job(
        "slow",
        job_xml(
            quiet=0,
            command=f"set +x; echo $$ &gt; {pid_file}; while [ ! -e {gate} ]; do sleep 0.01; done\n"
            f"echo hello; touch {spoke}",
        ),
    )
    jenkins.create_job("param", job_xml("usual"))
    post(jenkins, "job/slow/build")
    wait_for(lambda: pid_file.exists() and pid_file.read_text(encoding="utf-8").strip())
    orphan = int(pid_file.read_text(encoding="utf-8"))
    post(jenkins, "job/param/buildWithParameters", REQUEST_ID="lost")
    jenkins.restart(kill=True)
    assert jenkins.queued() == [] and jenkins.builds("slow") == []
    response = post(jenkins, "job/param/buildWithParameters", REQUEST_ID="first")
    assert response.headers["Location"].endswith("/queue/item/1/")  # somebody else's number now
    time.sleep(0.1)
    assert is_alive(orphan)
    gate.touch()
    wait_for(lambda: not is_alive(orphan))
    assert not spoke.exists()


def test_context_path_and_configured_address(tmp_path):
    with Jenkins(work=tmp_path, prefix="/jenkins") as jenkins:
        assert jenkins.url.endswith("/jenkins")
        jenkins.create_job("plain", job_xml())
        location = post(jenkins, "job/plain/build").headers["Location"]
        assert location == f"{jenkins.url}/queue/item/1/"
        jenkins.root_url = "https://public.example/ci/"
        task = get(jenkins, "queue/item/1/api/json").json()["task"]
        assert task["url"] == "https://public.example/ci/job/plain/"


def test_folders_over_http(jenkins):
    jenkins.create_job("A/one", job_xml())
    create = requests.post(
        f"{jenkins.url}/job/A/createItem?name=two",
        data=job_xml(token="s3cret"),
        headers={"Content-Type": "text/xml"},
        auth=jenkins.auth(),
        timeout=5,
    )
    assert create.status_code == 200
    assert [job["name"] for job in get(jenkins, "job/A/api/json").json()["jobs"]] == ["one", "two"]
    assert get(jenkins, "job/A/api/json").json()["_class"].endswith(".Folder")
    assert jenkins.job_token == "s3cret"
    assert post(jenkins, "job/A/job/two/build", user="limited", token="s3cret").status_code == 201
    assert post(jenkins, "job/A/job/two/build", user="limited").status_code == 403
    assert post(jenkins, "job/A/build").status_code == 404
    assert post(jenkins, "job/A/doDelete", user="admin").status_code == 302
    assert get(jenkins, "job/A/job/one/api/json").status_code == 404
    assert jenkins.queued() == []


def test_password_needs_a_crumb_of_its_session(jenkins):
    jenkins.create_job("plain", job_xml())
    url = f"{jenkins.url}/job/plain/build"
    auth = ("builder", jenkins.users["builder"].password)
    with requests.Session() as session:
        session.auth = auth
        assert session.post(url, timeout=5).status_code == 403
        issued = session.get(f"{jenkins.url}/crumbIssuer/api/json", timeout=5).json()
        crumb = {issued["crumbRequestField"]: issued["crumb"]}
        assert session.post(url, headers=crumb, timeout=5).status_code == 201
        assert requests.post(url, headers=crumb, auth=auth, timeout=5).status_code == 403  # without the cookie
        jenkins.restart()
        assert session.post(url, headers=crumb, timeout=5).status_code == 403  # sessions end with a restart


def test_configuration_it_cannot_honour_is_refused(jenkins):
    with pytest.raises(BadConfig, match="hudson.tasks.Maven"):
        jenkins.create_job("job", "<project><builders><hudson.tasks.Maven/></builders></project>")
    with pytest.raises(BadConfig, match="not XML"):
        jenkins.create_job("job", "<project>")


def test_waiting_for_builds_is_bounded(jenkins):
    jenkins.create_job("plain", job_xml())
    with pytest.raises(AssertionError, match="1 finished builds of plain wanted"):
        jenkins.wait_for_builds("plain", 1, timeout=0.05)
